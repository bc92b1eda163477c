"""Label images, read: a number for each object in a PNG or TIFF, or a binary picture for each object in a folder.

images/a.png belongs to masks/a.png (also masks/a_mask.tif and the like), or to the folder masks/a/.
The layout of the 2018 Data Science Bowl, a/images/a.png and a/masks/*.png, is read as well.
"""

import re
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.images import IMAGE_SUFFIXES, MAX_PIXELS, image_size
from common.errors import UserError
from maskworks.own_data.coco_writing import CocoWriter, Json, masked

PICTURES = ("images", "image", "imgs", "img", "raw", "pictures", "photos")
LABELS = ("masks", "mask", "labels", "label", "annotations", "instances", "segmentations", "groundtruth", "gt")
ENDING = re.compile(r"[_-]?(masks?|labels?|instances?|annotations?|segmentations?|seg|gt)$", re.IGNORECASE)
CLASS = "object"  # numbers say nothing of classes
LOOKED_AT = 20  # label images whose numbers are checked for being in one piece
Numbers = NDArray[np.int64]  # [H, W] object of each pixel, 0: none


def folders_of(root: Path) -> tuple[Path, Path] | None:
    """The folder of pictures and that of label images."""
    below = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    pictures = next((below[name] for name in PICTURES if name in below), None)
    labels = next((below[name] for name in LABELS if name in below), None)
    if pictures is None or labels is None or not (images_in(labels) or any(map(images_in, subfolders(labels)))):
        return None
    return pictures, labels


def single_folders(root: Path) -> list[Path]:
    """Folders that hold one picture under images/ and its objects under masks/."""
    return [path for path in subfolders(root) if (path / "images").is_dir() and (path / "masks").is_dir()]


def subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


def images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def read(root: Path, faults: list[str], notes: list[str]) -> CocoWriter:
    """All pictures with labels; file names start from `root`. What is only taken to be so is added to the notes."""
    writer = CocoWriter([CLASS])
    pairs = paired(root, faults)
    binary = all_binary([label for _, label in pairs if label.is_file()])
    if binary:
        notes.append("the label images have one number only, so each connected part is taken for an object")
    in_pieces = looked_at = 0
    for picture, label in pairs:
        try:
            height, width = image_size(picture)
            if label.is_dir():
                objects = [masked(0, read_numbers(path, height, width) > 0) for path in images_in(label)]
            else:
                numbers = read_numbers(label, height, width)
                if binary:
                    numbers = parts(numbers > 0)[1].astype(np.int64)
                objects = objects_of(numbers)
                if not binary and looked_at < LOOKED_AT:
                    looked_at, in_pieces = looked_at + 1, in_pieces + is_in_pieces(numbers)
            writer.add_image(picture.relative_to(root).as_posix(), height, width, objects)
        except UserError as error:
            faults.append(str(error) if str(error).startswith(str(root)) else f"{label}: {error}")
    if in_pieces > looked_at / 2:
        notes.append(
            "most numbers stand for several parts that don't touch: if they are classes, this is no data for instances"
        )
    return writer


def paired(root: Path, faults: list[str]) -> list[tuple[Path, Path]]:
    """Each picture with its label image, or with the folder of its objects."""
    if singles := single_folders(root):
        wrong = [folder / "images" for folder in singles if len(images_in(folder / "images")) != 1]
        faults += [f"{folder}: expected one picture, whose objects are those under masks/" for folder in wrong]
        return [(images_in(f / "images")[0], f / "masks") for f in singles if images_in(f / "images")]
    found = folders_of(root)
    assert found, "asked for only where this format was recognised"
    pictures, labels = found
    known = {ENDING.sub("", path.stem) or path.stem: path for path in images_in(labels)}
    known |= {path.stem: path for path in images_in(labels)} | {path.name: path for path in subfolders(labels)}
    pairs, used = [], set()
    for picture in images_in(pictures):
        label = known.get(picture.stem) or known.get(ENDING.sub("", picture.stem))
        if label is None:
            faults.append(f"{picture}: {labels} has no label image {picture.stem}.*; add it or remove the picture")
            continue
        pairs.append((picture, label))
        used.add(label)
    lost = [path for path in (*images_in(labels), *subfolders(labels)) if path not in used]
    faults += [f"{path}: there is no picture for it in {pictures}; add it or remove this" for path in lost]
    return pairs


def read_numbers(path: Path, height: int, width: int) -> Numbers:
    """The numbers of a label image; those of a palette are its places, not its colours."""
    try:
        with Image.open(path) as image:
            if image.size != (width, height):
                size = f"{image.size[0]} x {image.size[1]}"
                raise UserError(f"{path}: {size} pixels, but its picture {width} x {height}; make them of one size")
            if width * height > MAX_PIXELS:
                raise UserError(f"{path}: more than {MAX_PIXELS} pixels; cut it into parts")
            if getattr(image, "n_frames", 1) > 1:
                raise UserError(f"{path}: has {getattr(image, 'n_frames', 1)} pages; expected one, with all objects")
            values = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a label image that can be read ({error}); expected PNG or TIFF") from error
    if values.ndim != 2:
        raise UserError(f"{path}: has {values.shape[2]} channels; expected one, with a number for each object")
    numbers = values.astype(np.int64)
    if (numbers != values).any() or (numbers < 0).any():
        raise UserError(f"{path}: has numbers that are not whole or below 0; expected one for each object, 0 for none")
    return numbers


def objects_of(numbers: Numbers) -> list[Json]:
    """One for each number; cut out first, since most are small."""
    present, places = np.unique(numbers, return_inverse=True)
    height, width = numbers.shape
    order = np.argsort(places, axis=None, kind="stable")
    ends = np.cumsum(np.bincount(places.ravel(), minlength=len(present)))
    found = []
    for number, begin, end in zip(present.tolist(), (0, *ends[:-1].tolist()), ends.tolist(), strict=True):
        if number:
            mask = np.zeros(height * width, bool)
            mask[order[begin:end]] = True
            found.append(masked(0, mask.reshape(height, width)))
    return found


def all_binary(files: list[Path]) -> bool:
    """Whether label images tell no object from another: all of them have one number beside 0, the same one."""
    values: set[int] = set()
    for path in files:
        try:
            values |= set(np.unique(read_numbers(path, *image_size(path))).tolist()) - {0}
        except UserError:
            return False  # named when it is read
        if len(values) > 1:
            return False  # as nearly always with the first file
    return len(values) == 1


def is_in_pieces(numbers: Numbers) -> bool:
    """Whether most numbers stand for several parts that don't touch."""
    present = [number for number in np.unique(numbers).tolist() if number]
    counts = [parts(numbers == number)[0] for number in present]
    return sum(count > 1 for count in counts) > len(counts) / 2


def parts(mask: NDArray[np.bool_]) -> tuple[int, NDArray[np.int32]]:
    """How many connected parts there are, and which one each pixel is of, from 1."""
    count, numbers = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    return count - 1, np.asarray(numbers, np.int32)
