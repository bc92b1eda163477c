"""Panoptic quality of pairs at 480x640: common.metrics beside panopticapi's algorithm, from files.

python scripts/bench/panoptic_quality.py               500 pairs
python scripts/bench/panoptic_quality.py --pairs 50    a quick look

panopticapi is not on PyPI; its algorithm (sorting every pixel of a pair, then a loop over pairs of segments) is
written down here. Its PNGs are decoded by OpenCV, which is faster than the Pillow that it uses.
"""

import json
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tyro
from _timing import Clock, print_table
from numpy.typing import NDArray

from common.data.images import read_image
from common.metrics import evaluate_panoptic

HEIGHT, WIDTH, CLASSES, SEGMENTS = 480, 640, 20, 16
Maps = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # the decoded PNGs, [H, W, 3]


def draw_pair(random: np.random.Generator) -> tuple[Maps, list[dict[str, Any]], list[dict[str, Any]]]:
    """A picture of ellipses over two backgrounds, and the same a little moved, with some classes mistaken."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    truth = np.where(y < random.integers(100, 400), 1, 2).astype(np.uint32)
    found = np.where(y < random.integers(100, 400), 1, 2).astype(np.uint32)
    for segment in range(3, SEGMENTS + 1):
        center, radii = random.uniform((0, 0), (HEIGHT, WIDTH)), random.uniform(15, 120, 2)
        for picture, shift in ((truth, 0.0), (found, 5.0)):
            dy, dx = (y - center[0] - shift) / radii[0], (x - center[1]) / radii[1]
            picture[dy**2 + dx**2 < 1] = segment
    truth[:, :8] = 0
    classes = random.integers(0, CLASSES, SEGMENTS + 1)
    mistaken = np.where(random.random(SEGMENTS + 1) < 0.2, random.integers(0, CLASSES, SEGMENTS + 1), classes)
    scattered = np.arange(SEGMENTS + 1, dtype=np.uint32) * 70001 % 2**24  # ids that use all three channels
    tables = []
    for picture, category in ((truth, classes), (found, mistaken)):
        ids, areas = np.unique(picture[picture > 0], return_counts=True)
        tables.append(
            [
                {"id": int(scattered[i]), "category_id": int(category[i]), "area": int(n), "iscrowd": int(i % 11 == 0)}
                for i, n in zip(ids, areas, strict=True)
            ]
        )
    return (as_picture(scattered[truth]), as_picture(scattered[found])), tables[0], tables[1]


def as_picture(ids: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """In the order that OpenCV reads and writes: blue, green, red."""
    return np.stack((ids >> 16, ids >> 8 & 255, ids & 255), axis=-1).astype(np.uint8)


def as_ids(picture: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """panopticapi's way."""
    channels = picture.astype(np.uint32)
    return channels[..., 0] + 256 * channels[..., 1] + 256 * 256 * channels[..., 2]


def peer(folder: Path) -> float:
    """panopticapi's way; -> PQ over all classes."""
    iou_sum: dict[int, float] = defaultdict(float)
    counts: dict[str, dict[int, int]] = {name: defaultdict(int) for name in ("tp", "fp", "fn")}
    tables = [json.loads((folder / f"{part}.json").read_text())["annotations"] for part in ("truth", "found")]
    for entries in zip(*tables, strict=True):
        truth_list, found_list = (each["segments_info"] for each in entries)
        truth, found = (as_ids(read_image(folder / part / entries[0]["file_name"])) for part in ("truth", "found"))
        true_of, found_of = {each["id"]: each for each in truth_list}, {each["id"]: dict(each) for each in found_list}
        for label, area in zip(*np.unique(found, return_counts=True), strict=True):
            if label:
                found_of[label]["area"] = int(area)
        both = truth.astype(np.uint64) * 2**24 + found.astype(np.uint64)
        shared = {divmod(int(k), 2**24): int(n) for k, n in zip(*np.unique(both, return_counts=True), strict=True)}
        matched: tuple[set[int], set[int]] = (set(), set())
        for (a, b), pixels in shared.items():
            if a not in true_of or b not in found_of or true_of[a]["iscrowd"]:
                continue
            if true_of[a]["category_id"] != found_of[b]["category_id"]:
                continue
            union = true_of[a]["area"] + found_of[b]["area"] - pixels - shared.get((0, b), 0)
            if pixels / union > 0.5:
                counts["tp"][true_of[a]["category_id"]] += 1
                iou_sum[true_of[a]["category_id"]] += pixels / union
                matched[0].add(a)
                matched[1].add(b)
        crowds: dict[int, int] = {}
        for a, each in true_of.items():
            if each["iscrowd"]:
                crowds[each["category_id"]] = a
            elif a not in matched[0]:
                counts["fn"][each["category_id"]] += 1
        for b, each in found_of.items():
            ignored = shared.get((0, b), 0) + shared.get((crowds.get(each["category_id"], -1), b), 0)
            if b not in matched[1] and ignored / each["area"] <= 0.5:
                counts["fp"][each["category_id"]] += 1
    tp, fp, fn = (counts[name] for name in ("tp", "fp", "fn"))
    return float(np.mean([iou_sum[c] / (tp[c] + (fp[c] + fn[c]) / 2) for c in {*tp, *fp, *fn}]))


def write_files(folder: Path, count: int) -> None:
    """truth.json and found.json with the folders of their PNGs."""
    random = np.random.default_rng(0)
    content: dict[str, dict[str, list[Any]]] = {
        part: {"annotations": [], "categories": [{"id": i, "isthing": 1} for i in range(CLASSES)]}
        for part in ("truth", "found")
    }
    for part in content:
        (folder / part).mkdir()
    for i in range(count):
        pictures, *tables = draw_pair(random)
        for part, picture, table in zip(content, pictures, tables, strict=True):
            cv2.imwrite(str(folder / part / f"{i}.png"), picture)
            content[part]["annotations"].append({"image_id": i, "file_name": f"{i}.png", "segments_info": table})
    for part, each in content.items():
        (folder / f"{part}.json").write_text(json.dumps(each))


def main(pairs: int = 500, rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, clock = Path(name), Clock()
        write_files(folder, pairs)
        for _ in range(rounds):
            expected = clock.time("panopticapi's algorithm", partial(peer, folder))
            quality = clock.time(
                "common.metrics", partial(evaluate_panoptic, folder / "truth.json", folder / "found.json")
            )
    difference = abs(quality["All"]["pq"] - expected)
    title = f"Panoptic quality of {pairs} pairs of {HEIGHT}x{WIDTH}: the PQs differ by {difference:.1g}"
    print_table(title, clock.seconds, "panopticapi's algorithm")
    assert difference < 1e-12


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
