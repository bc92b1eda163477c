"""YOLO's format, read: data.yaml names the classes and the folders of images; labels lie beside these as text.

The labels of images/a.jpg are in labels/a.txt, a line for each object, in fractions of the image's width and height:
a class number and an outline (x y x y x y ...), or a class number and a box (centre x, centre y, width, height).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.images import IMAGE_SUFFIXES, image_size
from common.errors import UserError
from common.files import leads_inside, read_text
from maskworks.command_line.yaml_files import read_yaml
from maskworks.own_data.coco_writing import CocoWriter, Json, boxed, noting, outlined, rectangle

SPLITS = ("train", "val", "test")
ROUNDING = 1e-3  # so far outside of the image a coordinate may be; it is moved to the border


@dataclass
class Description:
    """A data.yaml, checked."""

    root: Path
    class_names: list[str]
    splits: dict[str, list[str]]  # name -> folders or lists of images, as seen from the root


@dataclass
class Labelled:
    """An image with its objects, and for each of these the file and line that it is from."""

    name: str
    height: int
    width: int
    objects: list[Json] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


def read(data: Path, root: Path | None, rectangles: bool, faults: list[str]) -> tuple[Path, dict[str, CocoWriter]]:
    """Where file names start, and each split's content; adds a line for each image that cannot be used."""
    description = read_description(data, root)
    splits: dict[str, list[Labelled]] = {}
    for split, places in description.splits.items():
        images = [path for place in places for path in images_of(description.root, place, faults)]
        found = [read_labels(image, description, rectangles, faults) for image in dict.fromkeys(images)]
        splits[split] = [image for image in found if image]
    masks = any("segmentation" in entry for images in splits.values() for image in images for entry in image.objects)
    writers = {split: CocoWriter(description.class_names) for split in splits}
    for split, labelled in splits.items():
        for image in labelled:
            if not (masks and boxes_alone(image, faults)):
                writers[split].add_image(image.name, image.height, image.width, image.objects)
    return description.root, writers


def read_description(path: Path, root: Path | None) -> Description:
    if not path.is_file():
        raise UserError(f"{path}: cannot be read (no such file); expected a data.yaml")
    content = read_yaml(path)
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{path}: no `names` in it; expected a data.yaml with path, train, val and names")
    splits = {split: places_of(path, split, content[split]) for split in SPLITS if content.get(split)}
    if not splits:
        raise UserError(f"{path}: none of {', '.join(SPLITS)} in it; say which folders hold the images")
    return Description(root or stated_root(path, content.get("path")), class_names(path, content["names"]), splits)


def stated_root(path: Path, stated: Any) -> Path:
    """`path` may be relative to data.yaml; one that leads elsewhere is the user's to confirm."""
    if not stated:
        return path.parent
    root = path.parent / str(stated)
    if not leads_inside(root, path.parent.resolve()):
        raise UserError(
            f"{path}: its `path` {str(stated)!r} leads out of the file's folder; if that is meant: --root {stated}"
        )
    if not root.is_dir():
        raise UserError(f"{path}: there is no folder {root}, its `path`; say where the data set is with --root")
    return root


def class_names(path: Path, names: Any) -> list[str]:
    expected = "expected a list of names, or each name behind its number, from 0"
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise UserError(f"{path}: the numbers in names are not 0 to {len(names) - 1}; {expected}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise UserError(f"{path}: names cannot be used; {expected}")
    return [str(name) for name in names]


def places_of(path: Path, split: str, value: Any) -> list[str]:
    places = value if isinstance(value, list) else [value]
    if not all(isinstance(place, str) for place in places):
        raise UserError(f"{path}: {split} cannot be used; expected a folder, a list of images, or several of those")
    return places


def images_of(root: Path, place: str, faults: list[str]) -> list[Path]:
    """The images in a folder, or those that a text file lists; adds a fault for each that is not to be had."""
    source = inside(root, place)
    if source.is_dir():
        images = sorted(path for path in source.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        if not images:
            raise UserError(f"{source}: no image in this folder; expected {' '.join(sorted(IMAGE_SUFFIXES))}")
        faults += labels_without_image(root, source, images)
        return images
    if not source.is_file():
        raise UserError(f"{source}: no such folder or list of images; correct data.yaml, or say --root")
    images = []
    for number, line in enumerate(read_text(source).splitlines(), start=1):
        path = source.parent / line.strip()
        if not line.strip():
            continue
        if leads_inside(path, root.resolve()) and path.is_file():
            images.append(Path(path.resolve().relative_to(root.resolve())))
        else:
            faults.append(f"{source}, line {number}: {line.strip()!r} is no file in {root}; correct or remove the line")
    return [root / path for path in images]


def inside(root: Path, place: str) -> Path:
    """A place of data.yaml, as seen from the root. Some programs write ../train/images for what is train/images."""
    candidates = [place, place.removeprefix("../")]
    for candidate in candidates:
        path = root / candidate
        if leads_inside(path, root.resolve()) and path.exists():
            return path
    if leads_inside(root / candidates[-1], root.resolve()):
        return root / candidates[-1]
    raise UserError(f"{place!r} leads out of {root}; say with --root which folder the data set is in")


def label_file(root: Path, image: Path) -> Path:
    """The last folder named images becomes labels; without one, the labels are beside the image."""
    parts = list(image.relative_to(root).parts)
    for index in reversed(range(len(parts) - 1)):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return root.joinpath(*parts).with_suffix(".txt")


def labels_without_image(root: Path, folder: Path, images: Sequence[Path]) -> list[str]:
    """Labels whose image is gone or has an unknown ending would be lost without a word."""
    expected = {label_file(root, image) for image in images}
    labels = label_file(root, folder / "any.jpg").parent
    found = (path for path in sorted(labels.rglob("*.txt")) if path.name != "classes.txt")
    return [
        f"{path}: there is no image for these labels in {folder}; add it or remove the file"
        for path in found
        if path not in expected and path.stem != "README"
    ]


def read_labels(image: Path, description: Description, rectangles: bool, faults: list[str]) -> Labelled | None:
    """An image with its objects; None if it has faults, which are added to the others."""
    labels = label_file(description.root, image)
    try:
        height, width = image_size(image)
        text = read_text(labels) if labels.is_file() else ""
    except UserError as error:
        faults.append(str(error))
        return None
    except (OSError, ValueError) as error:
        faults.append(f"{labels}: cannot be read ({error}); write it again")
        return None
    found = Labelled(image.relative_to(description.root).as_posix(), height, width)
    before = len(faults)
    for number, line in enumerate(text.splitlines(), start=1):
        with noting(faults, source := f"{labels}, line {number}"):
            if line.strip():
                found.objects.append(read_object(line, len(description.class_names), height, width, rectangles))
                found.sources.append(source)
    return found if len(faults) == before else None


def read_object(line: str, classes: int, height: int, width: int, rectangles: bool) -> Json:
    """One line: a class number, then a box or an outline in fractions of the image."""
    try:
        numbers = np.array([float(word) for word in line.split()])
    except ValueError as error:
        raise UserError(f"{error}; expected numbers with spaces between them") from error
    label, places = numbers[0], numbers[1:]
    if label not in range(classes):
        raise UserError(f"class {line.split(maxsplit=1)[0]}; expected a whole number from 0 to {classes - 1}")
    if len(places) != 4 and (len(places) < 6 or len(places) % 2):
        raise UserError(f"{len(places)} numbers behind the class; expected 4 of a box, or x and y of 3 or more corners")
    size = np.array((width, height), np.float64)
    if len(places) > 4:
        return outlined(int(label), [within(places.reshape(-1, 2)) * size], height, width)
    corners = within(np.stack((places[:2] - places[2:] / 2, places[:2] + places[2:] / 2))) * size
    return outlined(int(label), [rectangle(corners)], height, width) if rectangles else boxed(int(label), corners)


def within(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractions; those that rounding brought over the border are moved back to it."""
    wrong = ~((places >= -ROUNDING) & (places <= 1 + ROUNDING))  # of NaN too
    if wrong.any():
        raise UserError(f"reaches to {places[wrong][0]:g}; expected fractions of the image's size, from 0 to 1")
    return places.clip(0, 1)


def boxes_alone(image: Labelled, faults: list[str]) -> bool:
    """Whether objects of an image have no mask; where others have one, they would be left out of training."""
    alone = [at for entry, at in zip(image.objects, image.sources, strict=True) if "segmentation" not in entry]
    remedy = "give it one, or take boxes for masks: --rectangles"
    faults += [f"{source}: only a box, but other objects of the data set have an outline; {remedy}" for source in alone]
    return bool(alone)
