"""COCO mAP of a generated set of the size of COCO val: common.metrics beside pycocotools.

python scripts/bench/coco_map.py                     5,000 images, 36,000 ground truths, 500,000 detections; minutes
python scripts/bench/coco_map.py --images 500        a quick look
"""

import contextlib
import copy
import io
import time
from typing import Any

import numpy as np
import tyro
from _timing import print_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from common.metrics import evaluate_coco
from common.ops import masks as rle

HEIGHT, WIDTH, CLASSES = 480, 640, 80
Json = list[dict[str, Any]]


def draw_shapes(random: np.random.Generator, number: int) -> tuple[Json, Json]:
    """Ground truths as polygons and, for each, a slightly other mask in RLE with its box."""
    polygons, shifted = [], []
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    for _ in range(number):
        center = random.uniform((20, 20), (WIDTH - 20, HEIGHT - 20))
        radius = np.exp(random.uniform(np.log(6), np.log(180)))
        outline = radius * random.uniform(0.8, 1.2, 24)[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
        corners = np.clip(center + outline, 0, (WIDTH - 1, HEIGHT - 1)).round(2)
        polygons.append({"segmentation": [corners.ravel().tolist()]})
        moved = np.clip(corners + random.normal(0, radius * 0.08, 2), 0, (WIDTH - 1, HEIGHT - 1))
        shifted.append(rle.from_polygons([moved.ravel().tolist()], HEIGHT, WIDTH))
    drawn = [rle.from_polygons(each["segmentation"], HEIGHT, WIDTH) for each in polygons]
    for each, area, box in zip(polygons, rle.area(drawn).tolist(), rle.boxes(drawn).tolist(), strict=True):
        each.update(area=area, bbox=box)
    boxes = rle.boxes(shifted).tolist()
    return polygons, [{"segmentation": mask, "bbox": box} for mask, box in zip(shifted, boxes, strict=True)]


def generate(images: int, truths: int, each: int) -> tuple[dict[str, Any], Json]:
    """A data set with `truths` objects, a hundredth of them crowds, and `each` detections in every image."""
    random = np.random.default_rng(0)
    objects, masks = draw_shapes(random, truths)
    image_of, class_of = random.integers(0, images, truths), random.integers(1, CLASSES + 1, truths)
    crowd = random.random(truths) < 0.01
    for i, annotation in enumerate(objects):
        annotation.update(id=i + 1, image_id=int(image_of[i]), category_id=int(class_of[i]), iscrowd=int(crowd[i]))
    own: list[list[int]] = [[] for _ in range(images)]
    for i, image in enumerate(image_of):
        own[image].append(i)
    detections = []
    for image, hits in enumerate(own):
        shapes = [*hits, *random.integers(0, truths, max(0, each - len(hits))).tolist()][:each]
        for rank, shape in enumerate(shapes):
            true = rank < len(hits) and random.random() < 0.9
            category = int(class_of[shape]) if true else int(random.integers(1, CLASSES + 1))
            score = float(random.beta(4, 2) if true else random.beta(1, 4))
            detections.append(
                {"image_id": image, "category_id": category, "score": score, **copy.deepcopy(masks[shape])}
            )
    dataset = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH, "file_name": f"{i}.jpg"} for i in range(images)],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(CLASSES)],
        "annotations": objects,
    }
    return dataset, detections


def with_pycocotools(dataset: dict[str, Any], detections: Json, kind: str) -> tuple[float, list[float]]:
    """CPU seconds and the 12 numbers, from parsed JSON; the copies it writes into are made before."""
    truth = COCO()
    truth.dataset, found = copy.deepcopy(dataset), copy.deepcopy(detections)
    begin = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return time.process_time() - begin, evaluation.stats.tolist()


def with_ours(dataset: dict[str, Any], detections: Json, kind: str) -> tuple[float, list[float]]:
    begin = time.process_time()
    summary = evaluate_coco(dataset, detections, kind)
    return time.process_time() - begin, list(summary.values())


def main(images: int = 5000, detections: int = 100, rounds: int = 3) -> None:
    """So many images with so many detections each; the rounds are ours, pycocotools has one for each kind."""
    dataset, found = generate(images, round(images * 7.2), detections)
    print(f"{images} images, {len(dataset['annotations'])} ground truths, {len(found)} detections\n")
    for kind in ("segm", "bbox"):
        ours = [with_ours(dataset, found, kind) for _ in range(rounds)]
        theirs = with_pycocotools(dataset, found, kind)
        difference = max(abs(a - b) for a, b in zip(ours[0][1], theirs[1], strict=True))
        seconds = {"pycocotools": [theirs[0]], "common.metrics": [each[0] for each in ours]}
        print_table(f"mAP, {kind}: the 12 numbers differ by {difference:.1g}", seconds, "pycocotools", 20)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
