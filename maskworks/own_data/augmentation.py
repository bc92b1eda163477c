"""Augmentation by name, on torchvision.transforms.v2: what is done to a picture before the package's own scaling.

- published: nothing here. What a package does to pictures is in its `augment` settings, and stays in all three.
- light, strong: a window that is smaller or larger than the picture is cut out of it or around it, so that the package
  scales its objects up or down; colours change; some pictures are blurred; strong pastes objects of another picture.
- Nothing is mirrored here: --augment.flip says how often the package does.
- All is drawn from torch's generator, which the loader seeds from (seed, epoch, index).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data.batches import UNLABELLED
from common.data.coco import LabelledImages, Sample
from common.data.loader import Outlines, TrainingSet
from common.run.distributed import is_main
from maskworks.own_data.tiles import LARGE, SEEN, Window, box_around, joints_in

# Objects are kept by SEEN or LARGE, as in tiles; a box alone needs more, as there may be nothing in what is left of it.
SEEN_OF_BOX, LARGE_OF_BOX = 0.5, 0.25
TRIES = 10  # to find a window with an object in it
WINDOWS, PASTING = "windows", "copy-paste"  # what a package may leave out
# Settings by which packages do the like themselves: a named augmentation takes their place unless they are given.
IN_THE_PLACE_OF = {"augment.photometric": False, "augment.colours": False, "augment.expand": 1.0, "augment.crop": 0.0}


@dataclass(frozen=True)
class Strength:
    """How much is done to a picture."""

    window: tuple[float, float]  # its sides as parts of the picture's, drawn evenly over their logarithm
    colour: float  # brightness, contrast and saturation change by so much at most
    hue: float  # of the whole circle; it costs most of all
    blur: float  # how often
    paste: float  # how often

    def pixels(self) -> v2.Transform:
        colours = v2.ColorJitter(self.colour, self.colour, self.colour, self.hue)
        return v2.Compose([colours, v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], self.blur)])


STRENGTHS = {
    "light": Strength((0.7, 1.2), 0.2, 0.0, 0.1, 0.0),
    "strong": Strength((0.4, 1.5), 0.4, 0.05, 0.2, 0.5),
}


def training_set(
    dataset: LabelledImages,
    transforms: v2.Transform,
    config: Any,
    polygons: bool = False,
    without: Mapping[str, str] | None = None,
) -> TrainingSet:
    """A data set as training sees it, augmented as `config.data` names it; `without`: what not, and why.

    Prints in a line what light and strong do.
    """
    name, left_out = config.data.augment, dict(without or {})
    if not getattr(dataset, "has_masks", True):
        left_out |= {PASTING: "there are no masks to cut out"}
    if name not in STRENGTHS:
        return TrainingSet(dataset, transforms, config.training.seed, polygons)
    if is_main():
        mirrored = "; mirrored as --augment.flip says" if hasattr(config.augment, "flip") else ""
        print(f"augmentation: {described(name, left_out)}{mirrored}")
    change = Change(dataset, STRENGTHS[name], frozenset(left_out))
    return TrainingSet(dataset, transforms, config.training.seed, polygons, change)


def described(name: str, left_out: Mapping[str, str]) -> str:
    strength = STRENGTHS[name]
    (low, high), colour = strength.window, strength.colour
    done = {WINDOWS: f"of {low:g} to {high:g} times the picture's sides", PASTING: f"in {strength.paste:.0%}"}
    if not strength.paste:
        del done[PASTING]
    parts = [f"{what} {how}" for what, how in done.items() if what not in left_out]
    hues = f", hues by {strength.hue:.0%}" if strength.hue else ""
    parts += [f"colours changed by up to {colour:.0%}{hues}", f"{strength.blur:.0%} blurred"]
    reasons = {left_out[what]: [other for other in done if left_out.get(other) == left_out[what]] for what in left_out}
    without = [f"without {' and '.join(whats)}: {reason}" for reason, whats in reasons.items() if whats]
    return "; ".join([f"{name}: {', '.join(parts)}", *without])


def mirror_no_sides(config: Any, texts: Iterable[str]) -> None:
    """With a named augmentation nothing is mirrored where texts of the pictures would be untrue then."""
    if config.data.augment not in STRENGTHS or not config.augment.flip:
        return
    if text := next((text for text in texts if re.search(r"(?i)(?<![a-z])(left|right)(?![a-z])", text)), None):
        config.augment.flip = 0.0
        if is_main():
            print(f"nothing is mirrored, as {text!r} would be untrue of a mirrored picture: --augment.flip is 0")


@dataclass(frozen=True)
class Change:
    """What is done to a picture and its objects before the package's transforms."""

    dataset: LabelledImages
    strength: Strength
    left_out: frozenset[str] = field(default_factory=frozenset)

    def __call__(self, sample: Sample, outlines: Outlines | None) -> tuple[Sample, Outlines | None]:
        if WINDOWS not in self.left_out:
            sample, outlines = windowed(sample, outlines, self.strength.window)
        if PASTING not in self.left_out and chance(self.strength.paste):
            sample, outlines = with_pasted(sample, outlines, self.dataset[int(torch.randint(len(self.dataset), ()))])
        image = tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1))
        return replace(sample, image=self.strength.pixels()(image).permute(1, 2, 0).numpy()), outlines


# --- windows


def windowed(sample: Sample, outlines: Outlines | None, sides: tuple[float, float]) -> tuple[Sample, Outlines | None]:
    """A window of the picture, or a larger one that it lies in; one with an object in it, if the picture has any."""
    height, width = sample.image.shape[:2]
    for _ in range(TRIES):
        part = math.exp(uniform(math.log(sides[0]), math.log(sides[1])))
        tall, wide = max(1, round(height * part)), max(1, round(width * part))
        top, left = (math.floor(uniform(min(0, room), max(0, room) + 1)) for room in (height - tall, width - wide))
        found = framed(sample, outlines, Window(top, left, top + tall, left + wide))
        if len(found[0].labels) or not len(sample.labels):
            return found
    return sample, outlines


def framed(sample: Sample, outlines: Outlines | None, window: Window) -> tuple[Sample, Outlines | None]:
    """What a window shows; beyond the picture there is its mean colour. Outlines may reach out of it."""
    tall, wide = window.bottom - window.top, window.right - window.left
    corner, limits = np.array([window.left, window.top]), np.array([wide, tall])
    mean = sample.image.mean(axis=(0, 1)).tolist()
    image = cut(torch.from_numpy(sample.image).permute(2, 0, 1), window, mean).permute(1, 2, 0).numpy()
    masks = cut(torch.from_numpy(sample.masks.view(np.uint8)), window).numpy().view(np.bool_)
    boxes = (sample.boxes - np.tile(corner, 2)).astype(np.float32).clip(0, np.tile(limits, 2)).astype(np.float32)
    semantic, keypoints = sample.semantic, sample.keypoints
    if semantic is not None:
        semantic = cut(torch.from_numpy(semantic)[None], window, UNLABELLED)[0].numpy()
    if keypoints is not None:
        keypoints = joints_in(keypoints, window)
    if outlines is not None:
        outlines = [[(each - corner).astype(np.float32) for each in own] for own in outlines]
    changed = replace(sample, image=image, semantic=semantic, keypoints=keypoints)
    return remaining(sample, changed, outlines, masks, boxes)


def cut(pixels: Tensor, window: Window, fill: float | list[float] = 0) -> Tensor:
    """The window's part of [C, H, W], filled where it reaches beyond."""
    height, width = pixels.shape[-2:]
    inside = pixels[..., max(window.top, 0) : window.bottom, max(window.left, 0) : window.right]
    beyond = (-window.left, -window.top, window.right - width, window.bottom - height)
    padded: Tensor = v2.functional.pad(inside, [max(0, side) for side in beyond], fill=fill)
    return padded.contiguous()


def remaining(
    before: Sample,
    after: Sample,
    outlines: Outlines | None,
    masks: NDArray[np.bool_],
    boxes: NDArray[np.float32],
) -> tuple[Sample, Outlines | None]:
    """The objects of which enough is left; what lost pixels gets the box of what it has."""
    pixels, whole = masks.sum(axis=(1, 2)), before.masks.sum(axis=(1, 2))
    extents = [(each[:, 2:] - each[:, :2]).clip(0).prod(axis=1) for each in (boxes, before.boxes)]
    part, total = (np.where(whole > 0, counts, area) for counts, area in zip((pixels, whole), extents, strict=True))
    seen, large = (np.where(whole > 0, *limits) for limits in ((SEEN, SEEN_OF_BOX), (LARGE, LARGE_OF_BOX)))
    enough = (part >= seen * total) | (part >= large * after.image.shape[0] * after.image.shape[1])
    kept = (part > 0) & (enough | before.crowd)
    if before.keypoints is not None and after.keypoints is not None:
        joints, had = ((each[..., 2] > 0).any(axis=1) for each in (after.keypoints, before.keypoints))
        kept &= joints | ~had
    for row in np.flatnonzero(kept & (pixels < whole)).tolist():
        boxes[row] = box_around(masks[row])
    rows = np.flatnonzero(kept)
    keypoints = None if after.keypoints is None else after.keypoints[rows]
    own = None if outlines is None else [outlines[row] for row in rows.tolist()]
    labels, crowd = after.labels[rows], after.crowd[rows]
    return replace(after, boxes=boxes[rows], labels=labels, masks=masks[rows], crowd=crowd, keypoints=keypoints), own


# --- objects of another picture


def with_pasted(sample: Sample, outlines: Outlines | None, other: Sample) -> tuple[Sample, Outlines | None]:
    """Half of another picture's objects lie on this one, which loses what they hide; no outline is drawn of either."""
    height, width = sample.image.shape[:2]
    rooms = [own - wanted for own, wanted in zip(other.image.shape[:2], (height, width), strict=True)]
    top, left = (math.floor(uniform(min(0, room), max(0, room) + 1)) for room in rooms)
    other, _ = framed(other, None, Window(top, left, top + height, left + width))
    rows = np.flatnonzero(other.masks.any(axis=(1, 2)) & ~other.crowd & (torch.rand(len(other.labels)).numpy() < 0.5))
    if not len(rows):
        return sample, outlines
    hidden = np.asarray(other.masks[rows].any(axis=0))
    image = np.where(hidden[..., None], other.image, sample.image)
    semantic = sample.semantic
    if semantic is not None and other.semantic is not None:
        semantic = np.where(hidden, other.semantic, semantic)
    if outlines is not None:
        touched = np.asarray((sample.masks & hidden).any(axis=(1, 2))).tolist()
        outlines = [[] if lost else own for own, lost in zip(outlines, touched, strict=True)]
    changed = replace(sample, image=image, semantic=semantic)
    under, left_over = remaining(sample, changed, outlines, sample.masks & ~hidden, sample.boxes.copy())
    both: dict[str, Any] = {
        name: np.concatenate((getattr(under, name), getattr(other, name)[rows]))
        for name in ("boxes", "labels", "masks", "crowd")
    }
    return replace(under, **both), None if left_over is None else [*left_over, *([] for _ in rows)]


def uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def chance(probability: float) -> bool:
    return float(torch.rand(())) < probability
