"""labelme's files, read: polygons, rectangles, circles and painted masks.

Shapes of one label and one group_id are one object in several pieces.
"""

import base64
import binascii
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.images import image_size
from common.errors import UserError
from common.files import leads_inside, read_bytes
from common.ops import masks as rle
from common.ops.outlines import Mask, Outline
from maskworks.own_data.coco_writing import CocoWriter, Json, masked, noting, outlined, rectangle

FAR = 2**31  # from where no pixel of an image is
CIRCLE_ERROR = 0.1  # of a pixel: how far a circle's polygon may be from the circle


class Shape(msgspec.Struct):
    label: str
    points: list[tuple[float, float]]
    group_id: int | str | None = None
    shape_type: str = "polygon"
    mask: str | None = None  # of a painted one: a PNG, in base64


class LabelmeFile(msgspec.Struct, rename="camel"):
    """What is needed of a labelme file; the picture that it may hold as text (imageData) is not read."""

    shapes: list[Shape]
    image_path: str
    image_height: int | None = None
    image_width: int | None = None


@dataclass
class Painted:
    """A piece that is given by its pixels."""

    corner: tuple[int, int]  # x, y of its first pixel
    pixels: Mask

    def whole(self, height: int, width: int) -> Mask:
        """[H, W]: in the image, as far as it lies there."""
        x, y = self.corner
        top, left = max(0, -y), max(0, -x)
        seen = self.pixels[top : max(0, height - y), left : max(0, width - x)]
        mask = np.zeros((height, width), bool)
        mask[y + top : y + top + len(seen), x + left : x + left + seen.shape[1]] = seen
        return mask


Piece = Outline | Painted


@dataclass
class Photograph:
    """One labelme file, checked: its image, and its objects as (label, pieces)."""

    name: str
    height: int
    width: int
    objects: list[tuple[str, list[Piece]]]


def read(
    folder: Path,
    root: Path,
    faults: list[str],
    *,
    classes: Sequence[str] = (),
    order: Literal["sorted", "appearance"] = "sorted",
    but: Path | None = None,
) -> CocoWriter:
    """The content of all labelme files under a folder but one; file names start from `root`."""
    photographs = read_folder(folder, root, but, faults)
    classes = classes or found_classes(photographs, order)
    writer = CocoWriter(classes)
    for source, photograph in photographs.items():
        with noting(faults, source):
            writer.add_image(photograph.name, photograph.height, photograph.width, annotations(photograph, classes))
    return writer


def read_folder(folder: Path, root: Path, but: Path | None, faults: list[str]) -> dict[Path, Photograph]:
    """The photographs by their labelme files; adds a line for each file that cannot be used."""
    for place in (folder, root):
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; check the path")
    photographs: dict[Path, Photograph] = {}
    described: dict[str, Path] = {}
    for source in sorted(folder.rglob("*.json")):
        if but and source.resolve() == but.resolve():
            continue
        with noting(faults, source):
            photograph = read_file(source, root)
            other = described.setdefault(photograph.name, source)
            if other != source:
                raise UserError(f"its image {photograph.name} is that of {other} too; keep one of the two files")
            photographs[source] = photograph
    return photographs


def read_file(source: Path, root: Path) -> Photograph:
    try:
        content = msgspec.json.decode(read_bytes(source).removeprefix(b"\xef\xbb\xbf"), type=LabelmeFile)
    except msgspec.ValidationError as error:
        raise UserError(f"not a labelme file: {error}; expected shapes and imagePath") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"broken JSON: {error}; save it again in labelme") from error
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror}); check its rights") from error
    name = image_name(source, content.image_path, root)
    height, width = image_size(root / name)
    stated = (content.image_height or height, content.image_width or width)
    if stated != (height, width):
        problem = f"annotated at {stated[1]} x {stated[0]} pixels, but {root / name} is {width} x {height}"
        raise UserError(f"{problem}; annotate it again or bring the old image back")
    return Photograph(name, height, width, grouped(content.shapes))


def image_name(source: Path, image_path: str, root: Path) -> str:
    """Where the image is, as seen from the root: labelme writes its path as seen from its own file."""
    start, resolved = Path(os.path.normpath(root.absolute())), root.resolve()
    for place in (image_path, image_path.replace("\\", "/")):  # the latter: written on Windows
        path = Path(os.path.normpath(source.parent.absolute() / place))
        inside = path.is_relative_to(start) and leads_inside(path, resolved)
        if inside and path.is_file():
            return path.relative_to(start).as_posix()
    if not inside:
        raise UserError(f"imagePath {image_path!r} leads out of {root}; name a folder that holds both with --images")
    raise UserError(f"imagePath {image_path!r} names no file there; add the image or correct the path")


def grouped(shapes: Sequence[Shape]) -> list[tuple[str, list[Piece]]]:
    """Objects in the order of their first shapes; a group's shapes of one label are pieces of one object."""
    objects: dict[tuple[str, int | str | None, int], list[Piece]] = {}
    for number, shape in enumerate(shapes, start=1):
        try:
            piece = piece_of(shape)
        except UserError as error:
            raise UserError(f"shape {number} ({shape.label!r}): {error}") from error
        alone = number if shape.group_id is None else 0
        objects.setdefault((shape.label, shape.group_id, alone), []).append(piece)
    return [(label, pieces) for (label, _, _), pieces in objects.items()]


def piece_of(shape: Shape) -> Piece:
    """What a shape that has an area covers."""
    points = np.array(shape.points, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise UserError("a point of it is not finite; draw it again")
    match shape.shape_type:
        case "polygon" | "oriented_rectangle" if len(points) >= 3:
            return points
        case "rectangle" if len(points) == 2:
            return rectangle(points)
        case "rectangle" if len(points) == 4:
            return points
        case "circle" if len(points) == 2:
            return circle(points[0], float(np.hypot(*(points[1] - points[0]))))
        case "mask" if len(points) == 2:
            return painted(shape.mask or "", points.clip(-FAR, FAR).astype(np.int64))
        case "polygon" | "oriented_rectangle" | "rectangle" | "circle" | "mask":
            raise UserError(f"a {shape.shape_type} of {len(points)} points; draw it again or remove it")
        case other:
            known = "polygons, rectangles, circles and masks are read"
            raise UserError(f"a {other} has no outline: {known}; draw one instead or remove it")


def painted(text: str, corners: NDArray[np.int64]) -> Painted:
    """A mask that was painted into the box between two pixels."""
    (x1, y1), (x2, y2) = corners.tolist()
    try:
        picture = Image.open(BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",))
        if picture.size != (x2 - x1 + 1, y2 - y1 + 1):  # before it is unpacked
            size = " x ".join(map(str, picture.size))
            raise UserError(f"its mask is {size} pixels, but its box from {x1}, {y1} to {x2}, {y2}; paint it again")
        return Painted((x1, y1), np.asarray(picture.convert("L")) > 0)
    except (binascii.Error, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"its mask is not a PNG that can be decoded ({error}); paint it again") from error


def circle(centre: Outline, radius: float) -> Outline:
    """A polygon that is nowhere further than CIRCLE_ERROR from the circle."""
    corners = 12
    if radius > CIRCLE_ERROR:
        corners = max(corners, math.ceil(math.pi / math.acos(1 - CIRCLE_ERROR / radius)))
    corners += -corners % 4  # so that some lie at the ends of both axes, where its box ends
    angles = np.arange(corners) * (2 * math.pi / corners)
    return centre + radius * np.stack((np.cos(angles), np.sin(angles)), axis=1)


def annotations(photograph: Photograph, classes: Sequence[str]) -> list[Json]:
    found = []
    for number, (label, pieces) in enumerate(photograph.objects, start=1):
        if label not in classes:
            raise UserError(f"its label {label!r} is none of the classes {', '.join(classes)}; add or correct it")
        try:
            found.append(annotation(classes.index(label), pieces, photograph.height, photograph.width))
        except UserError as error:
            raise UserError(f"object {number} ({label!r}): {error}") from error
    return found


def annotation(label: int, pieces: Sequence[Piece], height: int, width: int) -> Json:
    """An object of outlines keeps them; with a painted piece it becomes a mask."""
    outlines = [piece for piece in pieces if not isinstance(piece, Painted)]
    if len(outlines) == len(pieces):
        return outlined(label, outlines, height, width)
    mask = np.logical_or.reduce([piece.whole(height, width) for piece in pieces if isinstance(piece, Painted)])
    if outlines:
        polygons = [each.round(3).ravel().tolist() for each in outlines]
        mask |= rle.decode([rle.from_polygons(polygons, height, width)])[0]
    return masked(label, mask)


def found_classes(photographs: dict[Path, Photograph], order: str) -> list[str]:
    names = dict.fromkeys(label for photograph in photographs.values() for label, _ in photograph.objects)
    return sorted(names) if order == "sorted" else list(names)
