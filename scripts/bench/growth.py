"""How time and memory grow with the detections of a photograph, with its size, and with the photographs of a file.

python scripts/bench/growth.py              in minutes
python scripts/bench/growth.py --detections 10 100 --megapixels 0.3 1 --photographs 1000 10000

CPU seconds of one run and what it took beside the process, in MB; the exponent is that of the last step: 1 is in
proportion. Each is measured in a process of its own, a copy of this one (on Linux).
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from math import isqrt, log
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from _timing import in_a_copy, memory
from annotation_loading import generate

from common.data.coco import CocoDataset
from common.ops.masks import decode, encode
from common.results import Instances
from maskworks.command_line import program
from maskworks.memory import keep_freed_memory
from maskworks.prediction.files import instance_map
from solov2.postprocess import boxes_around, enlarge

FEW = 30  # detections, where the size of the photograph grows


def found(count: int, megapixels: float) -> Instances:
    """Ellipses, as large beside the photograph as objects are, some small and some large."""
    random = np.random.default_rng(0)
    height = isqrt(round(megapixels * 750_000))
    width = height * 4 // 3
    masks = np.zeros((count, height, width), np.uint8)
    for mask in masks:
        centre = random.integers(0, width), random.integers(0, height)
        axes = (height * random.uniform(0.01, 0.2, 2)).astype(int) + 1
        cv2.ellipse(mask, tuple(map(int, centre)), tuple(map(int, axes)), random.integers(180), 0, 360, 1, -1)
    pixels = torch.from_numpy(masks.view(bool))
    boxes, scores, labels = boxes_around(pixels), torch.linspace(1, 0.4, count), torch.arange(count) % 80
    names = tuple(f"class {number}" for number in range(80))
    image = np.full((height, width, 3), 128, np.uint8)
    return Instances(scores, labels, boxes, pixels, (height, width), names, image=image)


def stages(result: Instances) -> dict[str, Callable[[], object]]:
    """What becomes of detections, network and NMS aside."""
    assert result.masks is not None
    codes = encode(result.masks)
    coarse = torch.nn.functional.interpolate(result.masks[:, None].float(), (120, 160))[:, 0]
    return {
        "masks to full size": partial(enlarge, coarse, (480, 640), result.size, 0.5),
        "boxes around masks": partial(boxes_around, result.masks),
        "masks to RLE": partial(encode, result.masks),
        "RLE to masks": partial(decode, codes),
        "instance map": partial(instance_map, result),
        "drawing": result.draw,
    }


def cost(action: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds and MB of one run, in a copy of this process."""

    def measured() -> tuple[float, float]:
        keep_freed_memory()
        before, begin = memory("VmRSS"), time.process_time()
        action()
        return time.process_time() - begin, memory() - before

    return in_a_copy(measured)


def show(title: str, sizes: tuple[Any, ...], costs: dict[str, list[tuple[float, float]]]) -> None:
    print(f"{title:26}" + "".join(f"{size:>20,}" for size in sizes) + f"{'exponents':>16}")
    for stage, spent in costs.items():
        cells = "".join(f"{seconds:>11.3f} s{megabytes:>5,.0f} MB" for seconds, megabytes in spent)
        step = log(sizes[-1] / sizes[-2]) if len(sizes) > 1 else 1.0
        grown = (log(max(spent[-1][at], 1e-4) / max(spent[-2:][0][at], 1e-4)) / step for at in (0, 1))
        print(f"{stage:26}{cells}  " + "".join(f"{exponent:>7.2f}" for exponent in grown), flush=True)
    print()


def main(
    detections: tuple[int, ...] = (10, 100, 500, 3000),
    megapixels: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0),
    photographs: tuple[int, ...] = (1_000, 10_000, 100_000),
) -> None:
    torch.set_num_threads(1)
    for title, sizes, result in (
        ("detections, 0.3 megapixels", detections, lambda count: found(count, 0.3)),
        (f"megapixels, {FEW} detections", megapixels, lambda size: found(FEW, size)),
    ):
        costs: dict[str, list[tuple[float, float]]] = {}
        for size in sizes:
            for stage, action in stages(result(size)).items():
                costs.setdefault(stage, []).append(cost(action))
        show(title, sizes, costs)
    loading = []
    for count in photographs:
        with tempfile.TemporaryDirectory() as folder:
            generate(Path(folder), round(count * 7.3))
            place = Path(folder)
            loading.append(cost(partial(CocoDataset, [place / "images"], [place / "annotations.json"])))
    show("photographs in a file", photographs, {"reading annotations": loading})


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
