"""Scoring what predict-many has found in very many photographs: CPU seconds and memory, beside all of it in memory.

python scripts/bench/score_many.py                               1,000, 10,000 and 100,000 made-up photographs
python scripts/bench/score_many.py --photographs 1000 --ways parts
"""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import tyro
from coco_map import draw_shapes

from common.data.coco import CocoDataset
from common.metrics import coco_details
from maskworks.many import parts, scoring
from maskworks.many.scores_of_parts import coco_details_of_parts

CLASSES, OBJECTS, FOUND, SHAPES, AT_ONCE = 80, 7, 10, 2000, 5000  # objects of a photograph, and detections
SIZE = {"height": 480, "width": 640}
Way = Literal["memory", "parts"]


def main(
    photographs: tuple[int, ...] = (1000, 10_000, 100_000),
    ways: tuple[Way, ...] = ("memory", "parts"),
    measure: Path | None = None,
) -> None:
    """So many photographs; `measure` is internal: the folder to score in this process."""
    if find_spec("pyarrow") is None:
        print("Not measured: pyarrow is not installed (the extra `ray`).")
    elif measure:
        print(json.dumps(scored(measure, ways[0])))
    else:
        print(f"{'photographs':>12}{'':>9}{'seconds':>10}{'MB more':>10}  AP of masks")
        for count in photographs:
            with TemporaryDirectory() as name:
                generate(Path(name), count)
                for way in ways:
                    command = [sys.executable, __file__, "--measure", name, "--ways", way]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    seconds, most, score = json.loads(done.stdout.splitlines()[-1])
                    print(f"{count:>12,}{way:>9}{seconds:>10.1f}{most:>10.0f}  {score!r}", flush=True)


def scored(folder: Path, way: Way) -> tuple[float, float, float]:
    """CPU seconds, the most megabytes that were added to what the programs take themselves, and the score."""
    begin, own = time.process_time(), megabytes("VmRSS")
    pairs = scoring.Pairs(str(folder), CocoDataset(None, [folder / "truth.json"]))
    if way == "parts":
        details = coco_details_of_parts(pairs.parts())
    else:
        scoring.AT_ONCE = sys.maxsize
        ((annotations, found),) = pairs.parts()
        details = {kind: coco_details(annotations, detections, kind) for kind, detections in found.items()}
    return time.process_time() - begin, megabytes("VmHWM") - own, details["segm"].summary["AP"]


def megabytes(kind: str) -> float:
    """Of this process: VmRSS, now; VmHWM, the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def generate(folder: Path, count: int) -> None:
    """An annotation file with outlines, and Parquet of as many rows, with masks a little beside them and others."""
    import pyarrow as pa

    random = np.random.default_rng(0)
    outlines, masks = draw_shapes(random, SHAPES)
    classes = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    owned = random.integers(0, SHAPES, (count, OBJECTS))
    labels = random.integers(1, CLASSES + 1, SHAPES).tolist()
    with (folder / "truth.json").open("w") as file:
        images = [{"id": number, "file_name": f"{number}.jpg"} | SIZE for number in range(count)]
        file.write(json.dumps({"categories": classes, "images": images})[:-1] + ', "annotations": [')
        for number, shape in enumerate(owned.ravel().tolist()):
            entry: Any = {"id": number + 1, "image_id": number // OBJECTS, "category_id": labels[shape], "iscrowd": 0}
            file.write(", " * (number > 0) + json.dumps(entry | outlines[shape]))
        file.write("]}")
    rows = (row(random, masks, labels, own.tolist(), number) for number, own in enumerate(owned))
    while some := list(islice(rows, AT_ONCE)):
        parts.write(pa.Table.from_pylist(some, parts.schema()), str(folder), {"classes": classes})


def row(random: np.random.Generator, masks: Any, labels: list[int], own: list[int], number: int) -> Any:
    """A photograph in which all but the last objects were found, and others that aren't there."""
    found = []
    for shape in [*own[:-1], *random.integers(0, SHAPES, FOUND - len(own) + 1).tolist()]:
        (x, y, width, height), code = masks[shape]["bbox"], masks[shape]["segmentation"]
        entry = {"class": f"class {labels[shape]}", "score": random.random(), "rle": code}
        found.append(entry | {"box": [x, y, x + width, y + height]})
    return {"path": f"/photographs/{number}.jpg", "instances": found} | SIZE


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
