"""Masks -> outlines as annotation tools keep them: a few corners, all around the pixels' middles."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from common.ops import masks as rle

Outline = NDArray[np.float64]  # [corners, 2] x, y in pixels
Mask = NDArray[np.bool_]
TOLERANCE = 0.75  # pixels that a simplified outline may be off: steps along a slanted edge become a line
ALIKE = 0.95  # IoU of an outline's pixels with the mask's; where the simplified one has less, it keeps every corner


def outlines(mask: Mask) -> list[Outline]:
    """[H, W] -> an outline around each part, its holes joined to it by a line there and back (tools know no holes)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return []
    corner = (columns[0], rows[0])
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    for tolerance in (TOLERANCE, 0.0):
        found = traced(part, tolerance)
        drawn = [rle.from_polygons([each.ravel().tolist() for each in found], *part.shape)] if found else []
        if drawn and rle.iou(rle.encode(part[None]), drawn, np.zeros(1, bool))[0, 0] >= ALIKE:
            break
    return [outline + corner for outline in found]


def traced(mask: Mask, tolerance: float) -> list[Outline]:
    """A quarter of a pixel inside of the pixels' borders, so around all their middles."""
    twice = mask.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    borders, tree = cv2.findContours(twice, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    simple = [cv2.approxPolyDP(border, 2 * tolerance, True) if tolerance else border for border in borders]
    places = [border[:, 0] / 2 + 0.25 for border in simple]
    found = []
    for at, (_, _, _, outside) in enumerate(tree[0]):
        if outside < 0:
            found.append(joined([places[at], *(places[hole] for hole in np.flatnonzero(tree[0][:, 3] == at))]))
    return [outline for outline in found if len(outline) >= 3]


def joined(loops: Sequence[Outline]) -> Outline:
    """One outline of several: from the first's start to each other, around it, and back the same way."""
    first, *others = loops
    there_and_back = [np.concatenate((loop, loop[:1], first[:1])) for loop in others]
    return np.concatenate((first, first[:1], *there_and_back)) if others else first
