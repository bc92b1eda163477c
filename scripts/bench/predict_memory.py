"""The memory that predicting very many photographs takes: resident megabytes after every 200 of them.

python scripts/bench/predict_memory.py                  2000 tiny photographs, a small SOLOv2 without training
python scripts/bench/predict_memory.py --images 400      a quick look
"""

import contextlib
import io
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from _timing import memory
from torch import nn

from common.results import Instances
from common.run.prediction_batches import Source
from maskworks.prediction.command import Predict, predict
from solov2 import VARIANTS, SOLOv2

CLASSES = tuple(f"class {number}" for number in range(1, 9))


class Watched(nn.Module):
    """A model that notes the memory as it goes."""

    def __init__(self, model: SOLOv2, every: int):
        super().__init__()
        self.model, self.every = model, every
        self.seen, self.objects = 0, 0
        self.lines: list[tuple[int, float, int]] = []

    def predict(self, images: Sequence[Source]) -> list[Instances]:
        results = self.model.predict(images)
        self.seen += len(results)
        self.objects += sum(map(len, results))
        if self.seen % self.every == 0:
            self.lines.append((self.seen, memory("VmRSS"), self.objects))
        return results


def main(images: int = 2000, every: int = 200) -> None:
    """So many photographs of 48 to 128 pixels a side, and a line after each so many."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = deepcopy(VARIANTS["shapes"])
    config.test.long_side = config.test.short_side = 96
    config.test.score_threshold, config.test.update_threshold, config.test.max_candidates = 0.005, 0.0, 20
    watched = Watched(SOLOv2(config, CLASSES).eval(), every)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "in", images)
        options = Predict([str(folder / "in")], weights="", out=str(folder / "out"), device="cpu", threshold=0.0)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            predict(watched, CLASSES, range(1, len(CLASSES) + 1), options)
        sizes = {path.name: path.stat().st_size / 1e6 for path in (folder / "out").iterdir() if path.is_file()}
    print(f"{'photographs':>12}{'objects':>12}{'resident MiB':>14}")
    for seen, megabytes, objects in watched.lines:
        print(f"{seen:>12}{objects:>12}{megabytes:>14.1f}")
    print(f"{'at the end':>12}{watched.objects:>12}{memory('VmRSS'):>14.1f}\n")
    print(", ".join(f"{name} {size:.1f} MB" for name, size in sorted(sizes.items())))


def write_photographs(folder: Path, count: int) -> None:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        height, width = random.integers(48, 129, 2)
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), cv2.resize(coarse, (int(width), int(height))))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
