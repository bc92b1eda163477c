"""The same two pictures in every format that --data understands, written by hand: a cat and a dog, and a dog alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 20, 40
CAT, DOG = (2, 1, 10, 9), (20, 5, 36, 15)  # x1, y1, x2, y2; the second picture has its dog where the first has its cat
PICTURES: dict[str, list[tuple[str, tuple[int, int, int, int]]]] = {
    "a": [("cat", CAT), ("dog", DOG)],
    "b": [("dog", CAT)],
}


def mask_of(box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    x1, y1, x2, y2 = box
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def picture(path: Path, value: int = 0) -> None:
    save(path, np.full((HEIGHT, WIDTH, 3), value, np.uint8))


def save(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def pictures(folder: Path, suffix: str = ".png") -> None:
    for value, name in enumerate(PICTURES):
        picture(folder / f"{name}{suffix}", value)


def coco(prefix: str = "", suffix: str = ".png", names: tuple[str, ...] = tuple(PICTURES), first: int = 1) -> Any:
    """As an annotation tool exports it; classes count from `first`."""
    classes = ["cat", "dog"]
    annotations = [
        {
            "image_id": image,
            "category_id": classes.index(label) + first,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": 0,
        }
        | {"area": (x2 - x1) * (y2 - y1), "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]]}
        for image, name in enumerate(names)
        for label, (x1, y1, x2, y2) in PICTURES[name]
    ]
    images = [
        {"id": at, "file_name": f"{prefix}{name}{suffix}", "height": HEIGHT, "width": WIDTH}
        for at, name in enumerate(names)
    ]
    return {
        "images": images,
        "annotations": [{"id": number, **entry} for number, entry in enumerate(annotations, start=1)],
        "categories": [{"id": at, "name": name} for at, name in enumerate(classes, start=first)],
    }


def beside(root: Path) -> Path:
    pictures(root)
    text(root / "annotations.json", json.dumps(coco()))
    return root


def file_itself(root: Path) -> Path:
    pictures(root / "images")
    return text(root / "my labels.json", json.dumps(coco()))


def label_studio(root: Path) -> Path:
    """Its file names start from where the file is; written on Windows they have backslashes."""
    pictures(root / "images")
    text(root / "result.json", json.dumps(coco("images\\", first=0)))
    return root


def cvat(root: Path) -> Path:
    pictures(root / "images/default")
    text(root / "annotations/instances_default.json", json.dumps(coco()))
    return root


def roboflow(root: Path) -> Path:
    """Without valid/; with the class above all others that it adds."""
    content = coco()
    for entry in content["categories"]:
        entry["supercategory"] = "animals"
    content["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
    pictures(root / "train")
    text(root / "train/_annotations.coco.json", json.dumps(content))
    return root


def yolo(root: Path) -> Path:
    pictures(root / "train/images")
    for name, objects in PICTURES.items():
        lines = []
        for label, (x1, y1, x2, y2) in objects:
            corners = [
                x1 / WIDTH,
                y1 / HEIGHT,
                x2 / WIDTH,
                y1 / HEIGHT,
                x2 / WIDTH,
                y2 / HEIGHT,
                x1 / WIDTH,
                y2 / HEIGHT,
            ]
            lines.append(" ".join(map(str, [["cat", "dog"].index(label), *corners])))
        text(root / f"train/labels/{name}.txt", "\n".join(lines))
    text(root / "data.yaml", "path: /content/elsewhere\ntrain: ../train/images\nnames: [cat, dog]\n")
    return root


def labelme(root: Path) -> Path:
    pictures(root)
    for name, objects in PICTURES.items():
        shapes = [{"label": c, "points": [box[:2], box[2:]], "shape_type": "rectangle"} for c, box in objects]
        text(root / f"{name}.json", json.dumps({"shapes": shapes, "imagePath": f"{name}.png", "imageData": None}))
    return root


def voc(root: Path) -> Path:
    pictures(root / "JPEGImages", ".jpg")
    for name, objects in PICTURES.items():
        numbers = np.zeros((HEIGHT, WIDTH), np.uint8)
        entries = ""
        for number, (label, (x1, y1, x2, y2)) in enumerate(objects, start=1):
            numbers[y1:y2, x1:x2] = number
            places = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            entries += f"<object><name>{label}</name><bndbox>{places}</bndbox></object>"
        text(root / f"Annotations/{name}.xml", f"<annotation><filename>{name}.jpg</filename>{entries}</annotation>")
        palette = Image.fromarray(numbers, "P")
        palette.putpalette([value for _ in range(256) for value in (200, 0, 7)])
        (root / "SegmentationObject").mkdir(exist_ok=True)
        palette.save(root / f"SegmentationObject/{name}.png")
    return root


def numbered(name: str, kind: Any) -> NDArray[Any]:
    numbers = np.zeros((HEIGHT, WIDTH), kind)
    for number, (_, (x1, y1, x2, y2)) in enumerate(PICTURES[name], start=300 if kind != np.uint8 else 7):
        numbers[y1:y2, x1:x2] = number
    return numbers


def label_images(kind: Any, ending: str) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        pictures(root / "images")
        for name in PICTURES:
            save(root / f"masks/{name}{ending}", numbered(name, kind))
        return root

    return make


def folder_of_masks(root: Path) -> Path:
    pictures(root / "images", ".jpg")
    for name, objects in PICTURES.items():
        for number, (_, box) in enumerate(objects):
            save(root / f"masks/{name}/{number}.png", mask_of(box).astype(np.uint8) * 255)
    return root


def data_science_bowl(root: Path) -> Path:
    for value, (name, objects) in enumerate(PICTURES.items()):
        picture(root / f"{name}/images/{name}.png", value)
        for number, (_, box) in enumerate(objects):
            save(root / f"{name}/masks/{number}.png", mask_of(box).astype(np.uint8) * 255)
    return root


def imagefolder(root: Path) -> Path:
    pictures(root)
    lines = []
    for name, objects in PICTURES.items():
        boxes = [[x1, y1, x2 - x1, y2 - y1] for _, (x1, y1, x2, y2) in objects]
        outlines = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for _, (x1, y1, x2, y2) in objects]
        entry = {"bbox": boxes, "category": [label for label, _ in objects], "segmentation": outlines}
        lines.append(json.dumps({"file_name": f"{name}.png", "objects": entry}))
    text(root / "metadata.jsonl", "\n".join(lines) + "\n")
    return root


CLASSED = {f.__name__: f for f in (beside, file_itself, label_studio, cvat, roboflow, yolo, labelme, voc, imagefolder)}
UNCLASSED = {
    "8 bit": label_images(np.uint8, ".png"),
    "16 bit": label_images(np.uint16, "_mask.png"),
    "16 bit TIFF": label_images(np.uint16, "_labels.tif"),
    "32 bit TIFF": label_images(np.int32, ".tiff"),
    "folder of masks": folder_of_masks,
    "Data Science Bowl": data_science_bowl,
}
