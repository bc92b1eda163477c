"""Turn OCHuman's own annotations into COCO keypoint files: python scripts/prepare_ochuman.py ochuman.json [--out DIR].

As its authors do: people with joints and a mask, the first 2500 images that have some for validation and the others
for test, each also by how much a person's box overlaps another's (moderate: 0.50-0.75, hard: 0.75-1.00). Each
annotation keeps its max_iou, so that evaluation can tell the ranges apart within one file.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from common.errors import UserError
from common.files import read_bytes, write_text
from common.ops import masks as rle
from maskworks.command_line import program
from maskworks.shapes.scene_files import KEYPOINT_NAMES, SKELETON

Json = dict[str, Any]
VALIDATION_IMAGES = 2500
RANGES = ((0.0, 1.0), (0.5, 0.75), (0.75, 1.0))
VISIBILITY = {0: 0, 1: 2, 2: 2, 3: 1}  # missing, visible, hidden by oneself, by others -> COCO's 0, 1 (hidden), 2
CATEGORY = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": KEYPOINT_NAMES,
    "skeleton": SKELETON,
}


@dataclass
class Prepare:
    """Write ochuman_coco_format_{val,test}_range_{low}_{high}.json."""

    annotations: Annotated[Path, tyro.conf.Positional]
    """OCHuman's own file, ochuman.json."""
    out: Path | None = None
    """The folder to write to; without it: the one the file is in."""


def main() -> None:
    options = tyro.cli(Prepare, prog="prepare_ochuman.py")
    images = complete_images(options.annotations)
    splits = {"val": images[:VALIDATION_IMAGES], "test": images[VALIDATION_IMAGES:]}
    for split, chosen in splits.items():
        for low, high in RANGES:
            content = in_coco_format(chosen, low, high)
            folder = options.out or options.annotations.parent
            path = folder / f"ochuman_coco_format_{split}_range_{low:.2f}_{high:.2f}.json"
            write_text(path, json.dumps(content))
            print(f"{path}: {len(content['images'])} images, {len(content['annotations'])} people")


def complete_images(path: Path) -> list[Json]:
    """The images with people who have joints and a mask, and only these people, as COCO annotations without ids."""
    try:
        content = json.loads(read_bytes(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected OCHuman's ochuman.json") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}; download it again") from error
    if not isinstance(content, dict) or not {"images", "keypoint_names"} <= content.keys():
        raise UserError(f"{path}: no images and keypoint_names in it; expected OCHuman's own ochuman.json")
    missing = [name for name in KEYPOINT_NAMES if name not in content["keypoint_names"]]
    if missing:
        raise UserError(f"{path}: its keypoint_names lack {', '.join(missing)}; expected all that COCO has")
    order = [content["keypoint_names"].index(name) for name in KEYPOINT_NAMES]
    found = []
    for image in content["images"]:
        where = f"{path}: image {image.get('file_name')}"
        people = [
            person(entry, order, where) for entry in image["annotations"] if entry["keypoints"] and entry["segms"]
        ]
        if people:
            found.append({key: image[key] for key in ("file_name", "height", "width")} | {"people": people})
    return found


def person(entry: Json, order: list[int], where: str) -> Json:
    """One person: joints by name, the mask outside of its holes, and the box's area, which COCO has of the mask."""
    x1, y1, x2, y2 = entry["bbox"]
    try:
        joints = np.array(entry["keypoints"], float).reshape(-1, 3)[order]
        joints[:, 2] = [VISIBILITY[int(number)] for number in joints[:, 2]]
    except (ValueError, IndexError, KeyError) as error:
        raise UserError(f"{where}: a person's keypoints are not x, y and 0..3 for each of keypoint_names") from error
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "num_keypoints": int((joints[:, 2] > 0).sum()),
        "keypoints": joints.ravel().tolist(),
        "segmentation": segmentation(entry["segms"], where),
        "max_iou": entry["max_iou"],
    }


def segmentation(outlines: Json, where: str) -> Json:
    """The outer polygons without the inner ones, as RLE."""
    height, width = outlines["height"], outlines["width"]
    try:
        outer, inner = (drawn(outlines[kind], height, width) for kind in ("outer", "inner"))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return dict(rle.encode((outer & ~inner)[None])[0])


def drawn(polygons: list[list[float]], height: int, width: int) -> NDArray[np.bool_]:
    if not polygons:
        return np.zeros((height, width), bool)
    masks: NDArray[np.bool_] = rle.decode([rle.from_polygons(polygons, height, width)])
    return np.asarray(masks[0])


def in_coco_format(images: list[Json], low: float, high: float) -> Json:
    """The people whose largest overlap is at least `low` and less than `high`; ids count from 1."""
    content: Json = {"images": [], "annotations": [], "categories": [CATEGORY]}
    for image in images:
        people = [each for each in image["people"] if low <= each["max_iou"] < high]
        if not people:
            continue
        image_id = len(content["images"]) + 1
        content["images"].append({key: image[key] for key in ("file_name", "height", "width")} | {"id": image_id})
        for each in people:
            annotation_id = len(content["annotations"]) + 1
            content["annotations"].append(each | {"id": annotation_id, "image_id": image_id})
    return content


if __name__ == "__main__":
    program.run(main)
