"""What --data names: the format of a folder or file is found out here, which pictures train and which validate.

What is COCO's already is left where it is; any other format becomes the content of a COCO file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common.errors import UserError
from maskworks.own_data import coco_files, imagefolder, label_images, labelme, voc, yolo
from maskworks.own_data.coco_files import LOOKED_FOR, TRAIN, VAL, Part
from maskworks.own_data.coco_writing import CocoWriter, stop_or_skip

OF_OBJECTS = ("instances", "captions")  # tasks that take any format of objects; the others take COCO's of theirs
UNDERSTOOD = (
    "a COCO JSON with its pictures beside it or under images/; COCO's annotations/ and train2017/; exports of "
    "Roboflow, CVAT, Label Studio and Labelbox; YOLO's data.yaml; labelme's JSON files; Pascal VOC's Annotations/ and "
    "JPEGImages/; images/ and masks/ with label images (a number for each object) or with a folder of binary pictures "
    "for each; Hugging Face's metadata.jsonl; and train/ and val/ (valid/, test/) with one of these in each"
)
_BOTH = "one alone, in annotations/ with train2017/ beside that, or in train/ and val/ each"
OTHERS = {
    "captions": f"MDETR's captions and ODinW's folders, and for boxes {UNDERSTOOD}",
    "keypoints": f"a COCO JSON of people's key points with its pictures beside it or under images/: {_BOTH}",
    "panoptic": f"a COCO panoptic JSON, its PNGs in a folder of its name, pictures beside it or under images/: {_BOTH}",
    "scene_graph": "PSG's file or prepared ones, beside the folders that their file names start from or within one of "
    f"these (as psg/ beside coco/): {_BOTH}",
}


@dataclass
class Reading:
    """What a path was taken for."""

    train: Part
    val: Part | None = None
    notes: list[str] = field(default_factory=list)
    kind: str = ""


Candidate = tuple[str, Callable[[], Reading]]


def read(path: Path, rectangles: bool = False, task: str = "instances") -> Reading:
    """The data under a path; every other way to read it is among the notes."""
    if not path.exists():
        raise UserError(f"--data {path}: no such file or folder; check the path")
    candidates = list(readings_of(path, rectangles, task))
    if not candidates:
        raise UserError(f"--data {path}: nothing in it is understood. What is: {OTHERS.get(task, UNDERSTOOD)}")
    kind, taken = candidates[0]
    reading = taken()
    reading.kind = kind
    if reading.val and task in OF_OBJECTS:
        with_all_classes([reading.train, reading.val])
    if others := [other for other, _ in candidates[1:]]:
        reading.notes.append(f"it could also be {' or '.join(others[:3])}: to take that, name it itself")
    return reading


def readings_of(path: Path, rectangles: bool, task: str) -> Iterator[Candidate]:
    """What a path can be taken for, the most telling first."""
    if path.is_file():
        yield from readings_of_file(path, rectangles, task)
        return
    yield from split_folders(path, rectangles, task)
    if task not in OF_OBJECTS:
        for kind, train, val in coco_files.in_folder(path, task):
            yield kind, partial(_coco, train, val, task)
        return
    for root in [path, *sorted(path.glob("VOC*")), *sorted(path.glob("VOCdevkit/VOC*"))]:
        if (root / "Annotations").is_dir() and (root / "JPEGImages").is_dir():
            yield f"Pascal VOC's {root.name}", partial(_made, root / "JPEGImages", partial(voc.read, root, rectangles))
    for name in ("data.yaml", "data.yml", "metadata.jsonl"):
        if (path / name).is_file():
            yield from readings_of_file(path / name, rectangles, task)
    for kind, train, val in coco_files.in_folder(path, task):
        yield kind, partial(_coco, train, val, task)
    if any(coco_files.kind_of(file) == "labelme" for file in sorted(path.rglob("*.json"))[:LOOKED_FOR]):
        yield "labelme's JSON files", lambda: _made(path, lambda faults, _: {"train": labelme.read(path, path, faults)})
    if label_images.folders_of(path) or label_images.single_folders(path):
        kind = "pictures with a number or a binary picture for each object"
        yield kind, lambda: _made(path, lambda faults, notes: {"train": label_images.read(path, faults, notes)})


def readings_of_file(file: Path, rectangles: bool, task: str) -> Iterator[Candidate]:
    kind = coco_files.kind_of(file) if file.suffix == ".json" else ""
    if kind in coco_files.TASKS[task][0]:
        yield f"the {coco_files.OWNERS.get(task, 'COCO')} file {file.name}", lambda: _coco(file, None, task)
    elif task not in OF_OBJECTS:
        return
    elif kind == "labelme":
        raise UserError(f"--data {file}: one of labelme's files, for one picture; name their folder")
    elif file.suffix in {".yaml", ".yml"}:
        yield f"YOLO's {file.name}", lambda: _yolo(file, rectangles)
    elif file.name == "metadata.jsonl":
        folder = file.parent
        yield (
            "Hugging Face's imagefolder",
            lambda: _made(folder, lambda f, _: {"train": imagefolder.read(folder, rectangles, f)}),
        )


def split_folders(path: Path, rectangles: bool, task: str) -> Iterator[Candidate]:
    """train/ and val/, each with data of one format."""
    below = {folder.name.lower(): folder for folder in sorted(path.iterdir()) if folder.is_dir()}
    train = next((below[name] for name in TRAIN if name in below), None)
    if train is None or not (own := list(readings_of(train, rectangles, task))):
        return
    found = [(below[name], next(readings_of(below[name], rectangles, task), None)) for name in VAL if name in below]
    usable = [(folder, candidate) for folder, candidate in found if candidate]

    def both() -> Reading:
        reading = own[0][1]()
        if usable:
            validation = usable[0][1][1]()
            reading.val, reading.notes = validation.train, reading.notes + validation.notes
        reading.notes += [f"{folder.name}/ is not looked at" for folder, _ in found if folder not in dict(usable[:1])]
        return reading

    kinds = dict.fromkeys([own[0][0], *(candidate[0] for _, candidate in usable[:1])])
    names = " and ".join(f"{folder.name}/" for folder in (train, *(folder for folder, _ in usable[:1])))
    yield f"{names}, with {' and '.join(kinds)}", both


def _coco(train: Path, val: Path | None, task: str) -> Reading:
    return Reading(coco_files.read(train, task), coco_files.read(val, task) if val else None)


def _made(folder: Path, read: Callable[[list[str], list[str]], dict[str, CocoWriter]]) -> Reading:
    """What a format's reader makes of a folder; it is given two lists to fill, of faults and of notes."""
    faults, notes = list[str](), list[str]()
    return _parts(folder, read(faults, notes), faults, notes)


def _yolo(file: Path, rectangles: bool) -> Reading:
    """A `path` that leads elsewhere, as exports have it, is set aside where all pictures are beside the file."""
    faults: list[str] = []
    places = [place for split in yolo.read_description(file, file.parent).splits.values() for place in split]
    beside = all((file.parent / place.removeprefix("../")).exists() for place in places)
    root, writers = yolo.read(file, file.parent if beside else None, rectangles, faults)
    return _parts(root, writers, faults)


def _parts(folder: Path, writers: dict[str, CocoWriter], faults: list[str], found: Sequence[str] = ()) -> Reading:
    """The parts by their names; test validates only where nothing else does."""
    stop_or_skip(faults, skip=False, remedy=f"Correct {folder}, or take these pictures out of it")
    parts = {name: Part(folder, None, writer.content()) for name, writer in writers.items() if writer.images}
    if "train" not in parts:
        raise UserError(f"--data {folder}: no labelled picture to train on in it; check its folders and lists")
    val = next((name for name in VAL if name in parts), None)
    notes = [f"{name} is not looked at" for name in parts if name not in {"train", val}]
    notes += [f"{val} validates"] if val not in {None, "val"} else []
    return Reading(parts["train"], parts[val] if val else None, [*notes, *found])


def with_all_classes(parts: list[Part]) -> None:
    """Where classes were found in each part alone, each part gets those of all."""
    made = [part.made for part in parts if part.made is not None]
    names = [[str(entry["name"]) for entry in content["categories"]] for content in made]
    if len(made) < len(parts) or all(own == names[0] for own in names):
        return
    every = sorted({name for own in names for name in own})
    for content in made:
        number: dict[Any, int] = {entry["id"]: every.index(entry["name"]) + 1 for entry in content["categories"]}
        for entry in content["annotations"]:
            entry["category_id"] = number[entry["category_id"]]
        content["categories"] = [{"id": at, "name": name} for at, name in enumerate(every, start=1)]
