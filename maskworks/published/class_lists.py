"""What a converted model's classes are called: as asked for, as the file says, or a known list that it is of."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_text
from maskworks.published.coco_classes import COCO_THINGS
from maskworks.published.origin import Classes, Origin, at, plain_dict

PASCAL_VOC = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
CITYSCAPES = {  # its things, which detectors learn; upsnet adds the stuff
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
ZOO = "Detectron2 Model Zoo"  # the author of its files
LISTS: dict[str, dict[str, int]] = {
    "coco": COCO_THINGS,
    "pascal_voc": {name: number for number, name in enumerate(PASCAL_VOC, start=1)},
    "cityscapes": CITYSCAPES,
}
WORDS = (("pascal_voc", r"pascal|voc"), ("cityscapes", r"cityscapes"), ("coco", r"(?<![a-z])coco(?![a-z])"))
# names under which models of COCO are published that don't say so
COCO_FILES = re.compile(
    r"solov2_(light_)?.*_(1x|3x)|solov2_448_r(18|34)_epoch_36|e2e_(mask|faster)_rcnn_.+|"
    r"yolact_(plus_)?(base|im400|im700|darknet53|resnet50)_\d+_\d+"
)
NUMBERED = "nothing: numbered"  # the source of names that nobody gave
MOST = 100_000  # classes; a file of more is none of names


def read_classes(given: str) -> Classes:
    """A known list by its name, or a file: a name a line, a JSON list, or COCO's or PSG's JSON with categories."""
    if given in LISTS:
        return Classes(tuple(LISTS[given]), tuple(LISTS[given].values()), f"--classes {given}")
    path = Path(given)
    try:
        text = read_text(path)
        content = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except OSError as error:
        known = ", ".join(LISTS)
        raise UserError(f"--classes {given}: {error.strerror}; expected a file of names, or one of {known}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--classes {given}: neither text in UTF-8 nor JSON ({error})") from error
    if isinstance(content, dict) and "categories" in content:
        return _of_categories(content["categories"], given)
    if isinstance(content, dict) and "thing_classes" in content:  # PSG's
        content = [*content["thing_classes"], *(content.get("stuff_classes") or [])]
    names = [name for name in content if name != ""] if isinstance(content, list) else []
    if not names or len(names) > MOST or not all(isinstance(name, str) for name in names):
        raise UserError(f"--classes {given}: no names in it; expected one a line, a JSON list, or 'categories'")
    if len(set(names)) != len(names):
        raise UserError(f"--classes {given}: a name is there twice: {next(n for n in names if names.count(n) > 1)}")
    return Classes(tuple(names), tuple(range(1, len(names) + 1)), f"--classes {given}")


def _of_categories(categories: Any, given: str) -> Classes:
    pairs = [
        (entry["id"], entry["name"])
        for entry in (categories if isinstance(categories, list) else [])
        if isinstance(entry, dict) and type(entry.get("id")) is int and isinstance(entry.get("name"), str)
    ]
    if not pairs or len(pairs) != len(categories) or len(dict(pairs)) != len(pairs):
        raise UserError(f"--classes {given}: its categories have no id and name each, or an id twice")
    ids, names = zip(*sorted(pairs), strict=True)
    return Classes(names, ids, f"--classes {given}")


def data_set_of(origin: Origin) -> tuple[str, str] | None:
    """The data set that a file says it is of, and where: its configuration, Detectron's, or its name."""
    kinds = {"CocoDataset": "coco", "CityscapesDataset": "cityscapes", "VOCDataset": "pascal_voc"}
    if (kind := at(origin.recipe, "dataset_type")) is not None:
        return (kinds[kind], f"its configuration's {kind}") if isinstance(kind, str) and kind in kinds else None
    detectron = origin.rest.get("cfg")
    if isinstance(detectron, str) and re.search(r"\bcoco_201[47]_", detectron):
        return "coco", "its Detectron configuration's data set"
    trained_on = at(origin.recipe, "DATASETS.TRAIN.0")
    for start, name in (("coco_", "coco"), ("cityscapes_fine_instance", "cityscapes"), ("voc_", "pascal_voc")):
        if isinstance(trained_on, str) and trained_on.startswith(start):
            return name, f"its configuration, DATASETS.TRAIN = {trained_on}"
    by_torchvision = plain_dict(origin.rest.get("args")).get("dataset") == "coco"  # its references
    if by_torchvision or origin.rest.get("__author__") == ZOO:
        return "coco", "its training's args.dataset" if by_torchvision else ZOO
    for name, word in WORDS:
        if re.search(word, origin.name):
            return name, "the file's name"
    return ("coco", "the file's name, a published one") if COCO_FILES.fullmatch(origin.name) else None


def classes_of(origin: Origin, count: int, known: Callable[[int], dict[str, int] | None]) -> tuple[Classes, list[str]]:
    """The classes of a file with `count` of them, and what of its words could not be taken.

    `known` has a package's published lists by their length; they count only where the origin names a data set.
    """
    if origin.classes is not None:
        if len(origin.classes.names) != count:
            named = len(origin.classes.names)
            raise UserError(f"{origin.path} has {count} classes, but {origin.classes.source} names {named}")
        return origin.classes, []
    notes = []
    data_set = data_set_of(origin)
    published = None
    if data_set is not None:
        listed = LISTS[data_set[0]]
        published = listed if len(listed) == count else known(count)
    for place, value in _named(origin):
        names = (value,) if isinstance(value, str) and count == 1 else value
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            notes.append(f"{place} is not a list of names, and is not taken")
        elif len(names) != count:
            notes.append(f"{place} has {len(names)} names, but the model {count} classes: they are not taken")
        else:
            lists = [ids for ids in (*LISTS.values(), published or {}) if tuple(ids) == tuple(names)]
            return Classes(tuple(names), tuple(lists[0].values() if lists else range(1, count + 1)), place), notes
    if data_set is not None and published is not None and not notes:  # names that don't fit contradict the list
        return Classes(tuple(published), tuple(published.values()), data_set[1]), notes
    notes.append(
        f"it does not say what its {count} classes are called; they get numbers, and can't be scored: "
        f"name them with --classes FILE, or one of {', '.join(LISTS)}"
    )
    numbers = tuple(range(1, count + 1))
    return Classes(tuple(f"class {number}" for number in numbers), numbers, NUMBERED), notes


def _named(origin: Origin) -> Sequence[tuple[str, Any]]:
    """Where MMDetection writes the names of classes, and what is there."""
    meta = plain_dict(origin.rest.get("meta"))
    data_set = {str(key).lower(): value for key, value in plain_dict(meta.get("dataset_meta")).items()}
    paths = ("data.test.classes", "test_dataloader.dataset.metainfo.classes", "metainfo.classes")
    places: Mapping[str, Any] = {
        "its meta's CLASSES": meta.get("CLASSES"),
        "its meta's dataset_meta": data_set.get("classes"),
        **{f"its configuration's {path}": at(origin.recipe, path) for path in paths},
    }
    return [(place, value) for place, value in places.items() if value is not None]
