"""What can be said about a built-in scene: relations that follow from its geometry, and a caption."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskworks.shapes.scenes import Scene, Thing

PREDICATES = (
    *("left of", "right of", "above", "below"),
    *("in front of", "inside", "bigger than", "on", "standing on", "in"),
)
MIN_HIDDEN_PIXELS = 8  # "in front of": how much of the object the subject hides at least
BIGGER = 3  # "bigger than": the subject shows at least so many times the object's area
MARGIN = 3  # "on", "standing on", "in": how far around a thing we look for what it is on, in pixels
IMMERSING = ("sky", "water")  # stuff that things are in rather than on

ANKLES, HIPS = [15, 16], [11, 12]
NUMBERS = ("no", "a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
PLURALS = {"person": "people", "cross": "crosses"}


@dataclass(frozen=True)
class Relation:
    """Subject and object are positions in segments_of(scene), predicate one in PREDICATES."""

    subject: int
    object: int
    predicate: int


@dataclass(frozen=True)
class Phrase:
    """The characters [start, end) of a caption name these things, positions in segments_of(scene)."""

    start: int
    end: int
    things: tuple[int, ...]


def segments_of(scene: Scene) -> list[Thing]:
    """Everything visible in the order of the annotation files: things from back to front, crowds, stuff.

    Crowds and stuff come last because readers of scene graphs number the things first, PSG's own among them.
    """
    stuff = [Thing(name, "", mask, mask, False, None) for name, mask in scene.stuff]
    return [*sorted(scene.things, key=lambda thing: thing.crowd), *stuff]


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of a mask that isn't empty; x2 and y2 are the first column and row after it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def relations_of(scene: Scene) -> list[Relation]:
    """For each thing: what it hides, where it is to its nearest neighbour and what it is on."""
    things = [thing for thing in scene.things if not thing.crowd]
    boxes = [box_of(thing.mask) for thing in things]
    found: list[tuple[int, int, str]] = []
    for k, thing in enumerate(things):
        hidden = [o for o in range(k) if _hides(thing, things[o])]
        around = [o for o in range(k) if _surrounds(things[o].mask, boxes[k])]
        found += [(k, o, "inside") for o in around]
        found += [(k, o, "in front of") for o in hidden if o not in around]
        neighbour = _nearest(boxes, k)
        if neighbour is not None:
            side = _side(boxes[k], boxes[neighbour])
            found += [(k, neighbour, side)] if side else []
            if thing.mask.sum() >= BIGGER * things[neighbour].mask.sum():
                found.append((k, neighbour, "bigger than"))
        ground = _ground(thing, boxes[k], scene.stuff)
        if ground is not None:
            found.append((k, len(scene.things) + ground, _support(thing, scene.stuff[ground][0])))
    return [Relation(subject, other, PREDICATES.index(predicate)) for subject, other, predicate in found]


def _hides(front: Thing, back: Thing) -> bool:
    """Whether one visibly covers some of the other: they meet, too."""
    a, b = front.mask, back.mask
    meet = [a[1:] & b[:-1], a[:-1] & b[1:], a[:, 1:] & b[:, :-1], a[:, :-1] & b[:, 1:]]
    return int((a & back.whole).sum()) >= MIN_HIDDEN_PIXELS and any(bool(pixels.any()) for pixels in meet)


def _surrounds(mask: NDArray[np.bool_], box: tuple[int, int, int, int]) -> bool:
    """Whether the mask goes on beyond all four sides of the box, seen from its centre."""
    x1, y1, x2, y2 = box
    row, column = mask[(y1 + y2) // 2], mask[:, (x1 + x2) // 2]
    return bool(row[:x1].any() and row[x2:].any() and column[:y1].any() and column[y2:].any())


def _nearest(boxes: list[tuple[int, int, int, int]], k: int) -> int | None:
    """The box whose centre is nearest to that of box k, the first of equals."""
    centres = np.array([(x1 + x2, y1 + y2) for x1, y1, x2, y2 in boxes])  # doubled, so whole
    distances = ((centres - centres[k]) ** 2).sum(1)
    others = [other for other in range(len(boxes)) if other != k]
    return min(others, key=lambda other: int(distances[other]), default=None)


def _side(box: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> str:
    """The side of the other box that a box is at; "" unless they are apart and half in line."""
    for axis, before, after in ((0, "left of", "right of"), (1, "above", "below")):
        across = 1 - axis
        shared = min(box[across + 2], other[across + 2]) - max(box[across], other[across])
        smaller = min(box[across + 2] - box[across], other[across + 2] - other[across])
        if 2 * shared >= smaller and box[axis + 2] <= other[axis]:
            return before
        if 2 * shared >= smaller and other[axis + 2] <= box[axis]:
            return after
    return ""


def _ground(thing: Thing, box: tuple[int, int, int, int], stuff: list[tuple[str, NDArray[np.bool_]]]) -> int | None:
    """Which stuff region is next to the thing: around a person's feet, around all of anything else."""
    x1, y1, x2, y2 = box
    first = y2 - MARGIN if thing.name == "person" else y1 - MARGIN
    rows, columns = slice(max(first, 0), y2 + MARGIN), slice(max(x1 - MARGIN, 0), x2 + MARGIN)
    counts = [int(mask[rows, columns].sum()) for _, mask in stuff]
    return int(np.argmax(counts)) if any(counts) else None


def _support(thing: Thing, stuff: str) -> str:
    if stuff in IMMERSING:
        return "in"
    if thing.keypoints is None:
        return "on"
    ankles, hips = thing.keypoints[ANKLES], thing.keypoints[HIPS]
    upright = ankles[:, 2].min() == 2 and hips[:, 2].min() > 0 and ankles[:, 1].min() > hips[:, 1].max()
    return "standing on" if upright else "on"


# --- the caption ---

Piece = tuple[str, tuple[int, ...]]  # words, and the things that they name


def caption_of(scene: Scene) -> tuple[str, list[Phrase]]:
    """A caption that names every thing but the crowds; things called the same share a phrase."""
    things = [thing for thing in scene.things if not thing.crowd]
    groups: dict[tuple[str, str], list[int]] = {}
    for k, thing in enumerate(things):
        groups.setdefault((thing.name, thing.colour), []).append(k)
    single = {members[0] for members in groups.values() if len(members) == 1}
    relations = [relation for relation in relations_of(scene) if relation.subject in single]
    clauses: list[list[Piece]] = []
    named: set[int] = set()
    for (name, colour), members in groups.items():
        if named.isdisjoint(members):
            named.update(members)
            clause = _mention(name, colour, members)
            partners = [r for r in relations if r.subject == members[0] and r.object in single - named]
            places = [r for r in relations if r.subject == members[0] and r.object >= len(scene.things)]
            if partners:
                other = partners[0].object
                named.add(other)
                clause.append((f" {PREDICATES[partners[0].predicate]} ", ()))
                clause += _mention(things[other].name, things[other].colour, [other])
            elif places:
                stuff = scene.stuff[places[0].object - len(scene.things)][0]
                clause.append((f" {PREDICATES[places[0].predicate]} the {stuff}", ()))
            clauses.append(clause)
    return _written(clauses or [[(name, ())] for name, _ in scene.stuff])


def _mention(name: str, colour: str, members: list[int]) -> list[Piece]:
    noun = name if len(members) == 1 else PLURALS.get(name, f"{name}s")
    words = f"{noun} in {colour}" if name == "person" else f"{colour} {noun}"
    article = "an" if len(members) == 1 and words[0] in "aeiou" else NUMBERS[len(members)]
    return [(f"{article} ", ()), (words, tuple(members))]


def _written(clauses: list[list[Piece]]) -> tuple[str, list[Phrase]]:
    """The clauses as an enumeration, and where in it things are named."""
    text, phrases = "", []
    for k, clause in enumerate(clauses):
        text += "" if k == 0 else " and " if k == len(clauses) - 1 else ", "
        for words, members in clause:
            if members:
                phrases.append(Phrase(len(text), len(text) + len(words), members))
            text += words
    return text, phrases
