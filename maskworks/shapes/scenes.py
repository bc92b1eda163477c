"""One scene of the built-in dataset from a seed: a landscape, the figures in it, what hides what, the pixels.

- Whole numbers throughout, and a rasteriser of our own: a scene is the same on every machine and with every
  version of NumPy and OpenCV.
- Later things hide earlier ones. A thing that would be hidden too much is taken out before we paint.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskworks.shapes.figures import (
    SUBPIXELS,
    Colour,
    Figure,
    Part,
    Points,
    Split,
    between,
    bounds,
    choose,
    crowd,
    happens,
    person,
    shape,
    tinted,
)

# How hard the dataset is (with those at the top of figures.py). Changing any makes another dataset.
SIDES = (144, 160, 176, 192)  # image heights and widths, in pixels
THING_COUNT_ODDS = (4, 4, 6, 9, 12, 15, 16, 14, 12, 8)  # in percent, for 0, 1, 2 .. 9 things
CROWD_PERCENT = 8  # images with a crowd
PERSON_PERCENT = 20  # things that are people
COMPANION_PERCENT = 30  # people with another one beside or before them
INSET_PERCENT = 12  # shapes with a smaller one in their middle
SIZE_ODDS = (13, 69, 18)  # in percent, for small, medium and large things
SHAPE_RADII = ((7, 11), (14, 28), (29, 56))  # in pixels, for the three sizes
PERSON_HEIGHTS = ((32, 46), (52, 96), (97, 130))
PLACEMENT_TRIES = 6  # the emptiest of so many random places is taken: more tries, less occlusion
GRAIN = 7  # noise on every pixel, of 255
MIN_VISIBLE_PERCENT = 25  # of a thing, otherwise it is taken out
MIN_VISIBLE_PIXELS = 16


@dataclass(frozen=True)
class Texture:
    """How a stuff class looks: its colour, and blotches of cell = (height, width) pixels."""

    colour: Colour
    cell: tuple[int, int]
    strength: int  # of the blotches
    downwards: int  # how much lighter it is at the bottom of the image


STUFF = {
    "sky": Texture((142, 192, 232), (20, 44), 26, 24),
    "mountain": Texture((128, 120, 132), (11, 9), 30, -14),
    "grass": Texture((112, 168, 84), (7, 3), 24, -22),
    "sand": Texture((220, 198, 148), (9, 14), 14, -12),
    "water": Texture((70, 138, 176), (3, 24), 26, -20),
}


@dataclass(frozen=True)
class Thing:
    """An object, or a crowd of one class. Masks are [H, W] bool."""

    name: str
    colour: str  # the shirt's for a person, "" for a crowd
    mask: NDArray[np.bool_]  # what is seen of it
    whole: NDArray[np.bool_]  # what would be seen if nothing were in front of it
    crowd: bool
    keypoints: NDArray[np.int64] | None  # [17, 3] x, y, visibility as in COCO: 0 not there, 1 hidden, 2 seen


@dataclass(frozen=True)
class Scene:
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    things: list[Thing]  # from back to front
    stuff: list[tuple[str, NDArray[np.bool_]]]  # name and [H, W] mask of what the things leave of the landscape


@dataclass
class Layer:
    """A figure in pixels."""

    figure: Figure
    windows: list[tuple[int, int, NDArray[np.int16]]]  # for each part top, left, coverage [h, w] 0..SUBPIXELS**2
    whole: NDArray[np.bool_]  # [H, W]
    area: int  # also counts what lies outside of the image


def draw_scene(seed: int, split: Split, index: int) -> Scene:
    """Scene number `index` of a split; the same arguments give the same scene everywhere."""
    random = np.random.RandomState([seed, 0 if split == "train" else 1, index])
    height, width = choose(random, SIDES), choose(random, SIDES)
    names, landscape, horizon = _landscape(random, height, width)
    figures = _place(random, split, _figures(random, split), height=height, width=width, horizon=horizon)
    layers = _without_hidden([_rasterise(figure, height, width) for figure in figures])

    grain = random.randint(-GRAIN, GRAIN + 1, (height, width, 1)).astype(np.int16)
    image = _paint_landscape(random, names, landscape) + grain
    owner = np.full((height, width), -1)
    for number, layer in enumerate(layers):
        _paint(image, layer, grain)
        owner[layer.whole] = number
    things = [
        Thing(
            layer.figure.name,
            layer.figure.colour,
            owner == number,
            layer.whole,
            layer.figure.crowd,
            _keypoints(layer.figure.joints, owner, number),
        )
        for number, layer in enumerate(layers)
    ]
    stuff = [(name, (landscape == number) & (owner < 0)) for number, name in enumerate(names)]
    return Scene(image.clip(0, 255).astype(np.uint8), things, [(name, mask) for name, mask in stuff if mask.any()])


# --- what is in the scene, and where ---


def _weighted(random: np.random.RandomState, odds: Sequence[int]) -> int:
    """An index, with the given odds."""
    return int(np.searchsorted(np.cumsum(odds), random.randint(sum(odds)), side="right"))


def _figures(random: np.random.RandomState, split: Split) -> list[Figure]:
    figures = [crowd(random, split)] if happens(random, CROWD_PERCENT) else []
    for _ in range(_weighted(random, THING_COUNT_ODDS)):
        size = _weighted(random, SIZE_ODDS)
        if happens(random, PERSON_PERCENT):
            figures.append(person(random, between(random, *PERSON_HEIGHTS[size]) * SUBPIXELS))
        else:
            figures.append(shape(random, split, between(random, *SHAPE_RADII[size]) * SUBPIXELS))
    return figures


def _place(
    random: np.random.RandomState,
    split: Split,
    figures: list[Figure],
    *,
    height: int,
    width: int,
    horizon: int,
) -> list[Figure]:
    """Shapes anywhere, people with their feet on the ground; some with a companion, some with an inset."""
    placed: list[Figure] = []
    taken: list[tuple[int, int, int]] = []  # x, y, reach of those placed
    for figure in figures:
        left, top, right, bottom = figure.bounds()
        reach = max(right - left, bottom - top) // 2
        places = []
        for _ in range(PLACEMENT_TRIES):
            x, y = between(random, 6, width - 7) * SUBPIXELS, between(random, 6, height - 7) * SUBPIXELS
            if figure.name == "person":
                y = between(random, horizon + 4, height + 6) * SUBPIXELS - (bottom - top) // 2
            gaps = [(x - u) ** 2 + (y - v) ** 2 - (reach + r) ** 2 for u, v, r in taken]
            places.append((min(gaps, default=0), x, y))
        _, x, y = max(places, key=lambda place: place[0])  # the first of equals, so anywhere if nothing is taken
        taken.append((x, y, reach))
        placed.append(figure.moved(x - (left + right) // 2, y - (top + bottom) // 2))
        if figure.crowd:
            continue
        if figure.name == "person":
            if happens(random, COMPANION_PERCENT):
                placed.append(_companion(random, placed[-1]))
        elif happens(random, INSET_PERCENT) and reach >= 4 * SHAPE_RADII[0][0] * SUBPIXELS:
            inset = shape(random, split, reach * between(random, 25, 38) // 100)
            placed.append(inset.moved(x, y))
    return placed


def _companion(random: np.random.RandomState, of: Figure) -> Figure:
    """A person of about the same size, half before the other."""
    left, top, right, bottom = of.bounds()
    size = max(right - left, bottom - top)
    figure = person(random, size * between(random, 85, 115) // 100)
    beside = size * between(random, 20, 50) // 100 * choose(random, (-1, 1))
    return figure.moved((left + right) // 2 + beside, bottom + 2 * SUBPIXELS - figure.bounds()[3])


# --- from contours to pixels ---


def _fill(contours: list[Points], height: int, width: int) -> NDArray[np.bool_]:
    """The cells of a grid whose centres lie inside the contours (even-odd): [height, width]."""
    starts = np.concatenate(contours)
    steps = np.concatenate([np.roll(contour, -1, axis=0) for contour in contours]) - starts
    counts = np.abs(steps[:, 1])
    edges = np.repeat(np.arange(len(starts)), counts)
    rows = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    rows += np.minimum(starts[:, 1], starts[:, 1] + steps[:, 1])[edges]
    (x, y), (dx, dy) = starts[edges].T, steps[edges].T
    # Where an edge crosses the middle of a row, all cells further right flip. The crossing in half cells is
    # 2x + (2 row + 1 - 2y) dx / dy; the first centre 2c + 1 not left of it has c = ceil((crossing - 1) / 2).
    columns = -(-((2 * x - 1) * dy + (2 * rows + 1 - 2 * y) * dx) // (2 * dy))
    flips = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).astype(np.uint8)
    filled: NDArray[np.bool_] = (np.cumsum(flips.reshape(height, width + 1), axis=1, dtype=np.uint8) & 1) > 0
    return filled[:, :-1]


def _coverage(part: Part) -> tuple[int, int, NDArray[np.int16]]:
    """The part's window: top, left, and how many subpixels of each pixel it fills [h, w]."""
    left, top, right, bottom = (side // SUBPIXELS for side in bounds(part.contours))
    height, width = (bottom + 1 - top) * SUBPIXELS, (right + 1 - left) * SUBPIXELS
    origin = (left * SUBPIXELS, top * SUBPIXELS)
    fine = _fill([contour - origin for contour in part.contours], height, width).view(np.uint8)
    rows = sum(fine[k::SUBPIXELS] for k in range(1, SUBPIXELS)) + fine[::SUBPIXELS]
    coverage = sum(rows[:, k::SUBPIXELS] for k in range(1, SUBPIXELS)) + rows[:, ::SUBPIXELS]
    return top, left, coverage.astype(np.int16)


def _shared(start: int, length: int, limit: int) -> tuple[slice, slice]:
    """Of a window's extent along one axis, what lies inside of the image: in the image, in the window."""
    first, last = max(start, 0), max(min(start + length, limit), 0)
    return slice(first, last), slice(first - start, max(last - start, 0))


def _rasterise(figure: Figure, height: int, width: int) -> Layer:
    left, top, right, bottom = (side // SUBPIXELS for side in figure.bounds())
    silhouette = np.zeros((bottom + 1 - top, right + 1 - left), np.bool_)
    windows = [_coverage(part) for part in figure.parts]
    for y, x, coverage in windows:
        part = silhouette[y - top : y - top + coverage.shape[0], x - left : x - left + coverage.shape[1]]
        part |= coverage * 2 >= SUBPIXELS**2
    whole = np.zeros((height, width), np.bool_)
    rows, own_rows = _shared(top, silhouette.shape[0], height)
    columns, own_columns = _shared(left, silhouette.shape[1], width)
    whole[rows, columns] = silhouette[own_rows, own_columns]
    return Layer(figure, windows, whole, int(silhouette.sum()))


def _without_hidden(layers: list[Layer]) -> list[Layer]:
    """Leaves out those of which too little would be seen, behind others or inside of the image."""
    kept: list[Layer] = []
    for layer in reversed(layers):
        covered = np.any([other.whole for other in kept], axis=0) if kept else np.False_
        seen = int((layer.whole & ~covered).sum())
        if seen >= MIN_VISIBLE_PIXELS and seen * 100 >= layer.area * MIN_VISIBLE_PERCENT:
            kept.append(layer)
    return kept[::-1]


def _paint(image: NDArray[np.int16], layer: Layer, grain: NDArray[np.int16]) -> None:
    """Blends a figure into the image: its shadow, then its parts, lit from the upper left."""
    height, width = layer.whole.shape
    shadow = layer.whole[:-2, :-2] & ~layer.whole[2:, 2:]
    image[2:, 2:][shadow] = image[2:, 2:][shadow] * 3 // 4
    left, top, right, bottom = (side // SUBPIXELS for side in layer.figure.bounds())
    for part, (y, x, coverage) in zip(layer.figure.parts, layer.windows, strict=True):
        rows, own_rows = _shared(y, coverage.shape[0], height)
        columns, own_columns = _shared(x, coverage.shape[1], width)
        diagonal = np.arange(rows.start, rows.stop)[:, None] + np.arange(columns.start, columns.stop)
        light = 14 - 28 * (diagonal - top - left) // (bottom - top + right - left + 1)
        if part.stripes:
            light -= 24 * (diagonal // part.stripes % 2)
        colour = np.array(part.colour, np.int16) + light.astype(np.int16)[:, :, None] + grain[rows, columns]
        window = image[rows, columns]
        window += (colour - window) * coverage[own_rows, own_columns, None] // SUBPIXELS**2


def _keypoints(joints: NDArray[np.int64] | None, owner: NDArray[np.int64], number: int) -> NDArray[np.int64] | None:
    """Joints in pixels. One outside of the image is not there, one at a pixel of something else is hidden."""
    if joints is None:
        return None
    x, y = joints[:, 0] // SUBPIXELS, joints[:, 1] // SUBPIXELS
    height, width = owner.shape
    there = (joints[:, 2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    seen = owner[y.clip(0, height - 1), x.clip(0, width - 1)] == number
    keypoints: NDArray[np.int64] = np.stack((x, y, 1 + seen), axis=1) * there[:, None]
    return keypoints


# --- the landscape ---


def _blotches(random: np.random.RandomState, height: int, width: int, cell: tuple[int, int]) -> NDArray[np.int64]:
    """[height, width] smooth noise in -100..100: random values on a grid, interpolated in between."""
    (y, down), (x, right) = np.divmod(np.arange(height), cell[0]), np.divmod(np.arange(width), cell[1])
    grid = random.randint(-100, 101, (height // cell[0] + 2, width // cell[1] + 2))
    lines = grid[y] * (cell[0] - down)[:, None] + grid[y + 1] * down[:, None]
    noise: NDArray[np.int64] = lines[:, x] * (cell[1] - right) + lines[:, x + 1] * right
    return noise // (cell[0] * cell[1])


def _landscape(random: np.random.RandomState, height: int, width: int) -> tuple[list[str], NDArray[np.int64], int]:
    """Two or three regions from top to bottom: their names, the map of them [H, W], the ground's top row."""
    grounds = ["grass", "sand", "water"]
    random.shuffle(grounds)
    middle = ["mountain"] if happens(random, 35) else []
    names = ["sky", *middle, *grounds][: 3 if middle or happens(random, 55) else 2]
    landscape = np.zeros((height, width), np.int64)
    line = between(random, 15, 50) * height // 100
    horizon = line
    for number, name in enumerate(names[1:], start=1):
        wave = _blotches(random, 1, width, (1, 20 if name == "mountain" else 48))[0]
        swell = {"mountain": 12, "water": 1}.get(name, 6)
        landscape[np.arange(height)[:, None] >= line + wave * swell // 100] = number
        line += between(random, 14, 32) * height // 100
        horizon = line if name == "mountain" else horizon
    return names, landscape, horizon


def _paint_landscape(
    random: np.random.RandomState, names: list[str], landscape: NDArray[np.int64]
) -> NDArray[np.int16]:
    height, width = landscape.shape
    shade = np.zeros((height, width), np.int16)
    colours = []
    for number, name in enumerate(names):
        texture = STUFF[name]
        blotches = _blotches(random, height, width, texture.cell) * texture.strength // 100
        gradient = texture.downwards * np.arange(height)[:, None] // height
        np.copyto(shade, (blotches + gradient).astype(np.int16), where=landscape == number)
        colours.append(tinted(random, texture.colour, 10, 8))
    return np.array(colours, np.int16)[landscape] + shade[:, :, None]
