"""A small COCO file with every kind of annotation, and what tests of the loader do with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as oracle

from common.data.coco import CocoDataset, Sample

HEIGHT, WIDTH = 24, 32
TRIANGLE = [2.0, 2.0, 20.5, 4.0, 9.25, 18.0]


def make_mask() -> np.ndarray[Any, np.dtype[np.uint8]]:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:15, 8:30:2] = 1
    return mask


def compressed() -> dict[str, Any]:
    code = oracle.encode(np.asfortranarray(make_mask()))
    return {"size": code["size"], "counts": code["counts"].decode()}


def uncompressed() -> dict[str, Any]:
    pixels = make_mask().ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels, prepend=0))
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, pixels.size]).tolist()}


def annotation(identity: int, image: int = 5, category: int = 3, **changes: Any) -> dict[str, Any]:
    entry = {"id": identity, "image_id": image, "category_id": category, "bbox": [2, 2, 18.5, 16], "area": 150.5}
    entry |= {"iscrowd": 0, "segmentation": [TRIANGLE]}
    return {key: value for key, value in (entry | changes).items() if value is not ...}


def content() -> dict[str, Any]:
    """Three images (the last one empty) and two categories with sparse ids, out of order."""
    names = {5: "a.png", 2: "deep/b.png", 90: "c.png"}
    return {
        "info": {"year": 2020},
        "images": [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in names.items()],
        "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "person"}],
        "annotations": [
            annotation(1),
            annotation(70, image=2, category=17, segmentation=uncompressed(), iscrowd=1),
            annotation(8, category=17, segmentation=[TRIANGLE, [22, 10, 30, 10, 30, 22, 22, 22]]),
            annotation(9, image=2, segmentation=compressed()),
        ],
    }


def write(images: Path, data: Any, name: str = "annotations.json") -> Path:
    path = images.parent / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def load(images: Path, data: Any, **options: Any) -> CocoDataset:
    return CocoDataset([images], [write(images, data)], **options)


def assert_same(one: Sample, other: Sample) -> None:
    for name in ("image", "boxes", "labels", "masks", "crowd"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.image_id, one.path) == (other.image_id, other.path)
