"""Arrows from segment to segment, and the list of relations beside the picture."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from common.drawing import Colour, Picture, Tag, stroke, tag_image, text_size

PAPER: Colour = (255, 255, 255)
ALONG_ARROW = (0.5, 0.38, 0.62, 0.26, 0.74, 0.14, 0.86)  # where its label may be
LEGEND_LETTERS = 24  # the width of a legend, in heights of a letter


def paint_arrow(picture: Picture, start: Sequence[int], end: Sequence[int], colour: Colour) -> list[tuple[int, int]]:
    """Draw an arrow with a light rim, visible on any ground; returns where a label may go, its middle first."""
    line = stroke(picture) + 1
    length = max(1.0, math.dist(start, end))
    along = np.array([end[0] - start[0], end[1] - start[1]]) / length
    # A little to one side, so that an arrow and its opposite lie next to each other.
    aside = np.array([-along[1], along[0]]) * 2.5 * line
    # It starts and ends at a distance, or the names of the segments would cover its tip.
    gap = min(0.25 * length, 2.2 * text_size(picture))
    first = np.rint(start + aside + gap * along).astype(int).tolist()
    second = np.rint(end + aside - gap * along).astype(int).tolist()
    tip = min(0.3, 7 * line / length)
    cv2.arrowedLine(picture, first, second, PAPER, line + 2 * stroke(picture), cv2.LINE_AA, 0, tip)
    cv2.arrowedLine(picture, first, second, colour, line, cv2.LINE_AA, 0, tip)
    cv2.circle(picture, first, 2 * line, colour, -1, cv2.LINE_AA)
    return [
        (round(first[0] + part * (second[0] - first[0])), round(first[1] + part * (second[1] - first[1])))
        for part in ALONG_ARROW
    ]


def with_legend(picture: Picture, rows: Sequence[Sequence[tuple[str, Colour]]]) -> Picture:
    """The picture with a panel at its right: in each row plates with a text on its colour; as many rows as fit.

    The panel's width depends on the picture alone, so that all frames of a video have one size.
    """
    size = text_size(picture)
    panel = np.full((picture.shape[0], LEGEND_LETTERS * size, 3), PAPER, np.uint8)
    top = gap = max(2, size // 3)
    row_height = tag_image(Tag(" ", (0, 0, 0, 0), PAPER), size).shape[0] + gap
    for row in rows[: (picture.shape[0] - gap) // row_height]:
        left = gap
        for text, colour in row:
            plate = tag_image(Tag(text, (0, 0, 0, 0), colour), size)
            room = panel[top : top + plate.shape[0], left : left + plate.shape[1]]
            room[:] = plate[: room.shape[0], : room.shape[1]]
            left += plate.shape[1]
        top += row_height
    return np.concatenate((picture, panel), axis=1)
