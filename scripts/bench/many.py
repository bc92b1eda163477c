"""Photographs a second of predict-many with 1 and 2 workers against a plain loop, and what the engine costs for each.

python scripts/bench/many.py                  60 tiny photographs, a small SOLOv2 without training
python scripts/bench/many.py --images 1000     longer: less of it is the start
"""

import tempfile
import time
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
import tyro
from predict_memory import write_photographs

from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.many import engine, finding, photographs, sources
from solov2 import VARIANTS, SOLOv2

SETTINGS = {"threshold": 0.0, "precision": "fp32", "max_pixels": 10**6}


def main(images: int = 60, side: int = 480) -> None:
    """So many photographs of 48 to 128 pixels, which the network sees at `side` pixels."""
    if find_spec("ray") is None:
        print("Not measured: ray is not installed (the extra `ray`).")
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "in", images)
        print(f"{'':24}{'seconds':>10}{'each second':>13}{'ms each':>9}")
        for label, pixels in (("", side), ("no cost, ", 32)):
            weights = folder / f"{pixels}.safetensors"
            write_weights(weights, pixels)
            pieces = list(sources.pieces(str(folder / "in"), "", str(folder / "out"), set(), []))
            say(f"{label}a plain loop", images - 1, plain_loop(weights, pieces))
            for workers in (1, 2):
                out = str(folder / f"{pixels}-{workers}")
                say(f"{label}workers: {workers}", images - workers, with_engine(weights, pieces, workers, out))


def plain_loop(weights: Path, pieces: list[sources.Piece]) -> float:
    """Of all but the first, on which the network warms up."""
    finder = finding.Finder(weights.read_bytes(), SETTINGS, "cpu", 1)
    for number, piece in enumerate(pieces):
        if number == 1:
            begin = time.perf_counter()
        finder.rows([photographs.decoded(each, 10**6) for each in photographs.photographs(piece)])
    return time.perf_counter() - begin


def with_engine(weights: Path, pieces: list[sources.Piece], workers: int, out: str) -> float:
    """Of all less what a run takes that has a photograph for each worker: the start of processes and models."""
    import ray

    engine.start("", workers, 1, 0.5)
    taken = []
    for number, some in enumerate((pieces[:workers], pieces)):
        options = SimpleNamespace(workers=workers, batch_size=1, rows=500, out=f"{out}-{number}")
        begin = time.perf_counter()
        list(engine.run(some, weights.read_bytes(), {"settings": SETTINGS}, False, options))
        taken.append(time.perf_counter() - begin)
    ray.shutdown()
    return taken[1] - taken[0]


def write_weights(path: Path, side: int) -> None:
    torch.manual_seed(0)
    config = deepcopy(VARIANTS["shapes"])
    config.test.long_side = config.test.short_side = side
    save(path, Checkpoint("solov2", to_dict(config), ("a", "b"), (1, 2), SOLOv2(config, ("a", "b")).state_dict()))


def say(label: str, images: int, seconds: float) -> None:
    print(f"{label:24}{seconds:>10.1f}{images / seconds:>13.2f}{1000 * seconds / images:>9.1f}", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
