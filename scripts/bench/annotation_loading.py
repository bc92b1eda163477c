"""Loading annotations: seconds, memory, and what each loader worker adds, beside pycocotools.

python scripts/bench/annotation_loading.py                      a quarter of COCO train2017
python scripts/bench/annotation_loading.py --annotations 20000   a quick look
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from _timing import in_a_copy, memory
from pycocotools.coco import COCO
from rich.console import Console
from rich.table import Table

from common.data.annotation_files import RleEntry
from common.data.coco import CocoDataset

PEERS = ("pycocotools", "ours")
Json = dict[str, Any]


@dataclass
class Settings:
    annotations: int = 215_000
    repeats: int = 3  # each in a process of its own
    measure: str = ""  # internal: measure one of the peers in this process and print JSON
    folder: Path | None = None  # internal: where the generated data is


def main(settings: Settings) -> None:
    if settings.measure and settings.folder:
        print(json.dumps(measure(settings.measure, settings.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        megabytes = generate(folder, settings.annotations)
        runs = {peer: [in_a_process(peer, folder) for _ in range(settings.repeats)] for peer in PEERS}
    report(runs, settings, megabytes)


def generate(folder: Path, count: int) -> float:
    """Annotations as in COCO train2017: 7.3 for each image, 55 numbers in each, 1 % crowds. -> megabytes"""
    rng = np.random.default_rng(0)
    like_all: Json = {"width": 640, "height": 480, "license": 3, "coco_url": "x" * 60}
    numbers = range(max(1, round(count / 7.3)))
    images = [{"id": 9 * i + 7, "file_name": f"{i:012}.jpg"} | like_all for i in numbers]
    owners = rng.integers(0, len(images), count)
    annotations = [annotation_of(rng, i + 1, images[owner]["id"]) for i, owner in enumerate(owners)]
    categories = [{"id": i + 1, "name": f"class {i}", "supercategory": "thing"} for i in range(80)]
    file = folder / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    (folder / "images").mkdir()
    for image in images:
        (folder / "images" / str(image["file_name"])).touch()
    return file.stat().st_size / 2**20


def annotation_of(rng: np.random.Generator, identity: int, image_id: object) -> Json:
    box = [round(float(x), 2) for x in rng.uniform([0, 0, 8, 8], [400, 300, 240, 180])]
    crowd = identity % 100 == 0
    if crowd:
        counts = rng.integers(1, 1500, 200)
        segmentation: Any = {"counts": [*counts.tolist(), 640 * 480 - int(counts.sum())], "size": [480, 640]}
    else:
        corners = np.array(box[:2]) + rng.random((int(rng.integers(6, 50)), 2)) * box[2:]
        segmentation = [np.round(corners, 2).ravel().tolist()]
    return {
        "segmentation": segmentation,
        "area": round(box[2] * box[3], 4),
        "iscrowd": int(crowd),
        "image_id": image_id,
        "bbox": box,
        "category_id": identity % 80 + 1,
        "id": identity,
    }


def measure(peer: str, folder: Path) -> dict[str, float]:
    """Load, then read every annotation in a forked worker, all in this process."""
    before, start = memory("VmRSS"), time.process_time()
    read_all = {"pycocotools": load_pycocotools, "ours": load_ours}[peer](folder)
    return {
        "seconds": time.process_time() - start,
        "kept": memory("VmRSS") - before,
        "peak": memory() - before,
        "worker": growth_of_a_worker(read_all),
    }


def load_pycocotools(folder: Path) -> Callable[[], int]:
    """Loads the file; returns what reads all of it."""
    coco = COCO(folder / "annotations.json")

    def read_all() -> int:
        total = 0
        for image_id in coco.getImgIds():
            for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
                segmentation = annotation["segmentation"]
                outlines = segmentation if isinstance(segmentation, list) else [segmentation["counts"]]
                total += sum(map(len, outlines)) + len(annotation["bbox"])
        return total

    return read_all


def load_ours(folder: Path) -> Callable[[], int]:
    dataset = CocoDataset([folder / "images"], [folder / "annotations.json"])

    def read_all() -> int:
        total = 0
        for image in range(len(dataset)):
            for at in range(dataset.offsets[image], dataset.offsets[image + 1]):
                segmentation = dataset.segmentation(at)
                outlines = [segmentation.counts] if isinstance(segmentation, RleEntry) else segmentation or []
                total += sum(map(len, outlines)) + len(dataset.boxes[at])
        return total

    return read_all


def growth_of_a_worker(read_all: Callable[[], int]) -> float:
    """Megabytes of private memory that a forked worker has gained when it has read everything twice."""

    def grown() -> float:
        before = private()
        read_all()
        read_all()
        return private() - before

    return in_a_copy(grown)


def private() -> float:
    """Megabytes that no other process shares."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def in_a_process(peer: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", peer, "--folder", str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(answer.splitlines()[-1]))


def report(runs: dict[str, list[dict[str, float]]], settings: Settings, megabytes: float) -> None:
    title = f"Loading {settings.annotations:,} annotations ({megabytes:.0f} MB of JSON), {settings.repeats} runs"
    table = Table(title=title)
    for heading in ("", *PEERS, "ratio", "spread of ours"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = {
        "seconds": "CPU seconds to load (ours with all checks)",
        "kept": "MB kept",
        "peak": "MB at the peak",
        "worker": "MB each worker grows by",
    }
    for key, description in rows.items():
        theirs, ours = ([run[key] for run in runs[peer]] for peer in PEERS)
        middle, best = statistics.median(theirs), statistics.median(ours)
        ratio = f"{middle / best:.1f}" if best >= 0.05 else "-"
        spread = f"{min(ours):.2f} to {max(ours):.2f}"
        table.add_row(description, f"{middle:.2f}", f"{best:.2f}", ratio, spread)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
