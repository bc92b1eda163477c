"""The figures of the built-in dataset as filled contours: shapes, stick people, crowds.

- Everything is an integer: lengths and coordinates in subpixels (1/4 pixel, y downwards), angles in 1/256
  turns, sines from a rounded table. No rounding differs from machine to machine.
- The shape is the class, its colour an attribute.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val"]
Points = NDArray[np.int64]  # [2] or [k, 2] x, y
Colour = tuple[int, int, int]
Option = TypeVar("Option")

# How hard the figures are to tell apart (their number, sizes and places: scenes.py).
MAX_TURN = 20  # of 256 for a full circle: shapes are turned by up to this to either side
BRIGHTNESS_JITTER = 16  # percent, for each thing
TINT_JITTER = 10  # of 255, for each colour channel
STRIPED_PERCENT = 12  # shapes with stripes
CROWD_MEMBERS = (14, 30)

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart")
COLOURS: dict[str, Colour] = {
    "red": (214, 48, 42),
    "orange": (240, 130, 24),
    "yellow": (248, 222, 58),
    "green": (52, 160, 72),
    "blue": (46, 92, 204),
    "purple": (142, 64, 176),
    "white": (238, 236, 230),
}
# Never drawn in the training split: who recognises them in the other has told colour and shape apart.
HELD_OUT = frozenset(zip(COLOURS, ("star", "cross", "heart", "ring", "triangle", "circle", "square"), strict=True))
SKIN: tuple[Colour, ...] = ((244, 208, 178), (222, 176, 138), (176, 122, 84), (118, 78, 54))
HAIR: tuple[Colour, ...] = ((44, 34, 30), (92, 58, 34), (196, 154, 84), (120, 120, 122))
TROUSERS: tuple[Colour, ...] = ((46, 54, 78), (72, 62, 54), (58, 58, 60), (96, 104, 92))
EYES: Colour = (40, 34, 34)

SUBPIXELS = 4
UNIT = 4096
SINES = [round(math.sin(2 * math.pi * step / 256) * UNIT) for step in range(256)]


@dataclass
class Part:
    """A filled area of one colour; a contour inside another is a hole."""

    contours: list[Points]
    colour: Colour
    stripes: int = 0  # their width in pixels, 0 for none


@dataclass
class Figure:
    """One thing: its parts from back to front."""

    name: str
    colour: str  # the shirt's for a person, "" for a crowd
    parts: list[Part]
    joints: NDArray[np.int64] | None = None  # [17, 3] x, y, 1 if there
    crowd: bool = False

    def moved(self, x: int, y: int) -> "Figure":
        by = np.array((x, y, 0))
        parts = [Part([c + by[:2] for c in part.contours], part.colour, part.stripes) for part in self.parts]
        joints = None if self.joints is None else self.joints + by
        return Figure(self.name, self.colour, parts, joints, self.crowd)

    def bounds(self) -> tuple[int, int, int, int]:
        return bounds([contour for part in self.parts for contour in part.contours])


def bounds(contours: list[Points]) -> tuple[int, int, int, int]:
    points = np.concatenate(contours)
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    return left, top, right, bottom


# --- decisions. RandomState's stream is frozen; whole numbers only ---


def between(random: np.random.RandomState, low: int, high: int) -> int:
    """A whole number, both ends included."""
    return int(random.randint(low, high + 1))


def choose(random: np.random.RandomState, options: Sequence[Option]) -> Option:
    return options[int(random.randint(len(options)))]


def happens(random: np.random.RandomState, percent: int) -> bool:
    return int(random.randint(100)) < percent


def tinted(random: np.random.RandomState, colour: Colour, brightness: int, tint: int) -> Colour:
    """The colour, brighter or darker by up to so many percent and each channel off by up to `tint`."""
    percent = 100 + between(random, -brightness, brightness)
    red, green, blue = (min(max(c * percent // 100 + between(random, -tint, tint), 0), 255) for c in colour)
    return red, green, blue


def darkened(colour: Colour, eighths: int) -> Colour:
    red, green, blue = (channel * eighths // 8 for channel in colour)
    return red, green, blue


# --- contours ---


def _turned(points: Points, turn: int) -> Points:
    """Clockwise around the origin, as seen in the image."""
    sine, cosine = SINES[turn % 256], SINES[(turn + 64) % 256]
    x, y = points[..., 0], points[..., 1]
    return np.stack(((x * cosine - y * sine) // UNIT, (x * sine + y * cosine) // UNIT), axis=-1)


def _corners(count: int, *radii: int) -> Points:
    """Points around the origin, the first at the top, taking turns in their distances (percent of UNIT)."""
    up = np.array([[0, -UNIT * radii[k % len(radii)] // 100] for k in range(count)])
    return np.stack([_turned(point, 256 * k // count) for k, point in enumerate(up)])


def _cross(reach: int, half_width: int) -> Points:
    """A plus sign: how far it reaches from the origin and half the width of its arms, in percent of UNIT."""
    arm = np.array(((-half_width, -reach), (half_width, -reach), (half_width, -half_width))) * UNIT // 100
    return np.concatenate([_turned(arm, 64 * k) for k in range(4)])


def _heart(percent: int) -> Points:
    """The curve (sin^3 t, 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t), brought to size and rounded."""
    scale = UNIT * percent / 1600
    turns = [2 * math.pi * k / 48 for k in range(48)]
    x = [16 * math.sin(t) ** 3 for t in turns]
    y = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return np.array([(round(u * scale), round(-(v + 2) * scale)) for u, v in zip(x, y, strict=True)])


DISC = _corners(64, 100)
# For each shape its outline and, a little smaller, that of its face; what lies between them is the dark rim.
OUTLINES: dict[str, tuple[list[Points], list[Points]]] = {
    "circle": ([DISC], [_corners(64, 90)]),
    "square": ([_corners(4, 120)], [_corners(4, 106)]),
    "triangle": ([_corners(3, 128)], [_corners(3, 107)]),
    "star": ([_corners(10, 126, 56)], [_corners(10, 106, 48)]),
    "ring": ([_corners(64, 108), _corners(64, 54)], [_corners(64, 100), _corners(64, 62)]),
    "cross": ([_cross(108, 38)], [_cross(99, 29)]),
    "heart": ([_heart(108)], [_heart(95)]),
}


def shape(random: np.random.RandomState, split: Split, radius: int, name: str = "") -> Figure:
    """A shape (any, or the named one) around the origin, in a colour that the split may show it in."""
    name = name or choose(random, SHAPES)
    named = choose(random, [c for c in COLOURS if split == "val" or (c, name) not in HELD_OUT])
    colour = tinted(random, COLOURS[named], BRIGHTNESS_JITTER, TINT_JITTER)
    turn = between(random, -MAX_TURN, MAX_TURN)
    stripes = between(random, 3, 6) if happens(random, STRIPED_PERCENT) else 0
    outline, face = ([_turned(c * radius // UNIT, turn) for c in contours] for contours in OUTLINES[name])
    return Figure(name, named, [Part(outline, darkened(colour, 5)), Part(face, colour, stripes)])


# --- people ---


@dataclass
class Pose:
    """How a person holds itself; pairs are (right, left in the image), as angles away from the body."""

    faces_us: bool
    turn: int  # of the whole body
    lean: int  # of the trunk
    arms: tuple[int, int]
    forearms: tuple[int, int]  # further than the arms
    legs: tuple[int, int]
    shins: tuple[int, int]  # back from the legs


def _pose(random: np.random.RandomState) -> Pose:
    def pair(low: int, high: int) -> tuple[int, int]:
        return between(random, low, high), between(random, low, high)

    lies = happens(random, 6)
    waves, strides = happens(random, 50), happens(random, 40)
    return Pose(
        faces_us=happens(random, 70),
        turn=choose(random, (-64, 64)) if lies else between(random, -8, 8),
        lean=between(random, -6, 6),
        arms=pair(4, 100) if waves else pair(4, 24),
        forearms=pair(-30, 60),
        legs=pair(2, 34) if strides else pair(1, 10),
        shins=pair(0, 16),
    )


def _limb(start: Points, end: Points, radius: int) -> Points:
    """The outline of a stick with round ends."""
    (x, y), half = (end - start).tolist(), range(-64, 65, 16)
    length = max(math.isqrt(x * x + y * y), 1)
    # A half disc looking right, turned to look along the stick: cosine = x / length, sine = y / length.
    u, v = (np.array([SINES[(k + quarter) % 256] * radius // UNIT for k in half]) for quarter in (64, 0))
    arc = np.stack(((u * x - v * y) // length, (u * y + v * x) // length), axis=1)
    return np.concatenate((end + arc, start - arc))


def person(random: np.random.RandomState, height: int) -> Figure:
    """A stick figure about `height` tall, its hip at the origin, with COCO's 17 joints."""
    pose = _pose(random)
    named = choose(random, tuple(COLOURS))
    shirt = tinted(random, COLOURS[named], BRIGHTNESS_JITTER, TINT_JITTER)
    skin, hair, trousers = choose(random, SKIN), choose(random, HAIR), choose(random, TROUSERS)

    def beyond(start: Points, per_mille: int, angle: int) -> Points:
        """The point so far (of the height) from the start; angle 0 is towards the feet, 64 to the right."""
        down = np.array((0, height * per_mille // 1000))
        return start + _turned(down, pose.turn - angle)

    joints = np.zeros((17, 3), np.int64)
    hip = np.zeros(2, np.int64)
    neck = beyond(hip, 300, 128 + pose.lean)
    legs, arms, trunk = [], [], []
    for image_left in (0, 1):
        side = -1 if image_left else 1
        arm, leg = pose.arms[image_left], pose.legs[image_left]
        shoulder, hip_joint = beyond(neck, 92, 64 * side), beyond(hip, 62, 64 * side)
        elbow = beyond(shoulder, 165, side * arm)
        wrist = beyond(elbow, 155, side * (arm + pose.forearms[image_left]))
        knee = beyond(hip_joint, 215, side * leg)
        ankle = beyond(knee, 215, side * (leg - pose.shins[image_left]))
        # Joints 5, 7, .. 15 are the person's left ones, which are at the image's right if it faces us.
        first = 6 if image_left == pose.faces_us else 5
        joints[first::2] = [(*joint, 1) for joint in (shoulder, elbow, wrist, hip_joint, knee, ankle)]
        thick, thin = height * 46 // 1000, height * 36 // 1000
        legs += [Part([_limb(hip_joint, knee, thick)], trousers), Part([_limb(knee, ankle, thick)], trousers)]
        arms += [
            Part([_limb(shoulder, elbow, thin)], darkened(shirt, 7)),
            Part([_limb(elbow, wrist, thin)], skin),
        ]
        trunk += [beyond(shoulder, 20, 128), hip_joint] if side == 1 else [hip_joint, beyond(shoulder, 20, 128)]
    throat = Part([_limb(neck, beyond(neck, 60, 128 + pose.lean), height * 32 // 1000)], skin)
    head, joints[:5] = _head(beyond(neck, 118, 128 + pose.lean), height * 98 // 1000, pose, skin, hair)
    return Figure("person", named, [*legs, throat, Part([np.stack(trunk)], shirt), *arms, *head], joints)


def _head(centre: Points, radius: int, pose: Pose, skin: Colour, hair: Colour) -> tuple[list[Part], NDArray[np.int64]]:
    """The parts of a head and its joints [5, 3]: nose, eyes, ears. Seen from behind it has no face."""
    side = 1 if pose.faces_us else -1
    places = np.array(((0, 20), (34 * side, -8), (-34 * side, -8), (86 * side, 4), (-86 * side, 4)))  # percent
    points = centre + _turned(places * radius // 100, pose.turn)
    there = np.array([pose.faces_us] * 3 + [True] * 2)[:, None]
    joints = np.concatenate((points, np.ones((5, 1), np.int64)), axis=1) * there
    disc = DISC * radius // UNIT
    cap = _turned(np.concatenate((disc[-20:], disc[:21])) * 17 // 16, pose.turn)
    if not pose.faces_us:
        return [Part([disc + centre], skin), Part([disc * 17 // 16 + centre], hair)], joints
    eyes = [Part([disc // 7 + points[k]], EYES) for k in (1, 2)]
    return [Part([disc + centre], skin), Part([cap + centre], hair), *eyes], joints


def crowd(random: np.random.RandomState, split: Split) -> Figure:
    """Many tiny things of one class, overlapping; they will be annotated as one."""
    name = "person" if happens(random, 50) else choose(random, SHAPES)
    columns = between(random, 4, 8)
    pitch = (8 if name == "person" else 9) * SUBPIXELS
    parts: list[Part] = []
    for number in range(between(random, *CROWD_MEMBERS)):
        if name == "person":
            member = person(random, between(random, 15, 22) * SUBPIXELS)
        else:
            member = shape(random, split, between(random, 4, 7) * SUBPIXELS, name)
        row, column = divmod(number, columns)
        x = column * pitch + between(random, -3 * SUBPIXELS, 3 * SUBPIXELS)
        parts += member.moved(x, row * pitch + between(random, -2 * SUBPIXELS, 2 * SUBPIXELS)).parts
    return Figure(name, "", parts, crowd=True)
