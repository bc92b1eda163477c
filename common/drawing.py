"""Masks, boxes, labels, key points and arrows painted onto a picture (uint8 RGB, in place).

Everything scales with the picture, so that a thumbnail and a 20-megapixel photograph are equally legible.
Each mask is blended within its own bounding rectangle: the cost follows the objects, not the picture.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]  # [H, W, 3] RGB
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two exclusive
Rectangles = Sequence[Rectangle] | Rectangle | NDArray[np.int64]

GOLDEN_RATIO = 0.618034
HUE_SHIFTS = (0.0, 0.06, -0.06, 0.12, -0.12)
LIGHTNESSES = (0.55, 0.42, 0.68)
# Pairs of the 17 COCO person key points that a limb joins.
PERSON_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)
# Pillow's own font has no Chinese letters; the first of these that the system has is used for such names.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc", "DejaVuSans.ttf")


@dataclass
class Tag:
    """A line of text on a coloured ground, placed near the rectangle that it names."""

    text: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2
    colour: Colour
    centred: bool = False  # on the middle of the box instead of at its upper left corner
    elsewhere: tuple[tuple[int, int], ...] = ()  # where else its middle may be, if that is taken


def label_colours(labels: Sequence[int]) -> list[Colour]:
    """One colour for each object: its class gives the hue, and its count within the class shades it."""
    seen: dict[int, int] = {}
    colours = []
    for label in labels:
        nth = seen.get(label, 0)
        seen[label] = nth + 1
        # The golden ratio spreads any number of hues evenly.
        hue = (0.58 + label * GOLDEN_RATIO + HUE_SHIFTS[nth % len(HUE_SHIFTS)]) % 1.0
        red, green, blue = colorsys.hls_to_rgb(hue, LIGHTNESSES[nth % len(LIGHTNESSES)], 0.85)
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colours


def stroke(picture: Picture) -> int:
    """The width in pixels of a line that looks thin on this picture."""
    return max(1, round(math.sqrt(picture.shape[0] * picture.shape[1]) / 420))


def text_size(picture: Picture) -> int:
    """The height in pixels of letters that are legible on this picture."""
    return max(11, round(math.sqrt(picture.shape[0] * picture.shape[1]) * 0.024))


def paint_mask(picture: Picture, mask: NDArray[np.bool_], colour: Colour, opacity: float = 0.45) -> None:
    """Tint the pixels of mask [H, W] and draw its outline."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0 or height == 0:
        return
    inside = np.ascontiguousarray(mask[top : top + height, left : left + width])
    region = picture[top : top + height, left : left + width]
    tint = np.full_like(region, np.full((width, 3), colour, np.uint8))  # by rows: 20 times as fast as by pixels
    cv2.copyTo(cv2.addWeighted(region, 1 - opacity, tint, opacity, 0), inside.view(np.uint8), region)
    contours, _ = cv2.findContours(inside.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(picture, contours, -1, colour, stroke(picture), cv2.LINE_AA, offset=(left, top))


def paint_box(picture: Picture, box: Sequence[float], colour: Colour) -> None:
    """Draw the outline of box x1, y1, x2, y2."""
    height, width = picture.shape[:2]
    corners = np.nan_to_num(np.asarray(box, dtype=np.float64))
    # A box far outside would overflow OpenCV's fixed-point coordinates.
    x1, y1, x2, y2 = np.clip(np.rint(corners), -9, [width + 8, height + 8] * 2).astype(int).tolist()
    cv2.rectangle(picture, (x1, y1), (x2, y2), colour, stroke(picture), cv2.LINE_AA)


def paint_keypoints(picture: Picture, keypoints: NDArray[np.floating[Any]], colour: Colour) -> None:
    """Draw keypoints [K, 3] x, y, visibility (0: not drawn); 17 of them are joined to a person."""
    height, width = picture.shape[:2]
    finite = np.nan_to_num(keypoints)
    points = np.clip(np.rint(finite[:, :2]), -9, [width + 8, height + 8]).astype(int).tolist()
    visible = (finite[:, 2] > 0).tolist()
    line = stroke(picture)
    if len(points) == 17:
        for first, second in PERSON_LIMBS:
            if visible[first] and visible[second]:
                cv2.line(picture, points[first], points[second], colour, line + 1, cv2.LINE_AA)
    for point, shown in zip(points, visible, strict=True):
        if shown:
            cv2.circle(picture, point, line * 2 + 1, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(picture, point, line * 2, colour, -1, cv2.LINE_AA)


def paint_tags(picture: Picture, tags: Sequence[Tag]) -> None:
    """Write every tag above, in or below its box: the first of these places that is free."""
    height, width = picture.shape[:2]
    size = text_size(picture)
    plates = [tag_image(tag, size) for tag in tags]
    places = np.zeros((len(tags), 4), np.int64)
    for index, (tag, plate) in enumerate(zip(tags, plates, strict=True)):
        places[index] = free_place(tag, (plate.shape[1], plate.shape[0]), (width, height), places[:index])
    # Where there is no free place the earlier tag stays on top.
    for plate, (left, top, right, bottom) in zip(reversed(plates), reversed(places.tolist()), strict=True):
        room = picture[top:bottom, left:right]
        # On a picture smaller than its text the plate is cut off.
        room[:] = plate[: room.shape[0], : room.shape[1]]


def tag_image(tag: Tag, size: int) -> Picture:
    """The tag as a picture: text in black or white, whichever reads better on its colour."""
    font = tag_font(size, tag.text)
    left, _, right, bottom = font.getbbox(tag.text or " ")
    ascent, descent = font.getmetrics() if isinstance(font, ImageFont.FreeTypeFont) else (int(bottom), 0)
    margin = max(3, size // 4)
    plate = Image.new("RGB", (int(right - left) + 2 * margin, ascent + descent + margin // 2), tag.colour)
    red, green, blue = tag.colour
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
    ImageDraw.Draw(plate).text((margin - left, margin // 4), tag.text, fill=ink, font=font)
    return np.asarray(plate)


@lru_cache(maxsize=16)
def _font(size: int, wide: bool) -> Font:
    for name in WIDE_FONTS if wide else ():
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def tag_font(size: int, text: str) -> Font:
    """Pillow's own font, or a system font for letters that it lacks."""
    return _font(size, any(ord(letter) > 0x24F for letter in text))


def free_place(tag: Tag, plate: tuple[int, int], picture: tuple[int, int], taken: Rectangles) -> Rectangle:
    """Where a plate (width, height) goes: the first place at its box that is free, else the one that covers least."""
    places = possible_places(tag, plate, picture)
    return places[int(shared_pixels(places, taken).sum(axis=1).argmin())]


def possible_places(tag: Tag, plate: tuple[int, int], picture: tuple[int, int]) -> list[Rectangle]:
    """Where a plate may go, the best place first, all inside the picture."""
    width, height = plate
    x1, y1, x2, y2 = (int(value) for value in np.clip(np.nan_to_num(tag.box), -1e6, 1e6))
    if tag.centred:
        middles = [((x1 + x2) // 2, (y1 + y2) // 2), *tag.elsewhere]
        shifts = (0, -height, height, -2 * height, 2 * height)
        corners = [(x - width // 2, y - height // 2 + shift) for shift in shifts for x, y in middles]
    else:
        corners = [(x1, top) for top in (y1 - height, y1, y1 + height, y2 - height, y2)]
    inside = [(max(0, min(left, picture[0] - width)), max(0, min(top, picture[1] - height))) for left, top in corners]
    return [(left, top, left + width, top + height) for left, top in inside]


def shared_pixels(some: Rectangles, others: Rectangles) -> NDArray[np.int64]:
    """How many pixels each of some rectangles [n, 4] has in common with each of others [m, 4], as [n, m]."""
    first, second = np.asarray(some).reshape(-1, 1, 4), np.asarray(others).reshape(-1, 4)
    sides = np.minimum(first[..., 2:], second[:, 2:]) - np.maximum(first[..., :2], second[:, :2])
    pixels: NDArray[np.int64] = sides.clip(min=0).prod(axis=2)
    return pixels
