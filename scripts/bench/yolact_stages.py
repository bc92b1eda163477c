"""Where the time of one photograph goes in YOLACT: decode, stretch, network by part, boxes, masks, RLE; every variant.

python scripts/bench/yolact_stages.py                            all variants, a photograph of 480x640
python scripts/bench/yolact_stages.py --variants resnet50_550    one of them
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import torch
from _yolact import network, photograph
from torch import Tensor

from common.data.images import read_image
from common.ops import masks as rle
from common.ops.folding import fold_batch_norms
from yolact.config import VARIANTS
from yolact.masks import enlarge
from yolact.network import YOLACT
from yolact.postprocess import Detections, assemble, detect

T = TypeVar("T")
STAGES = ("decode", "stretch", "backbone", "pyramid", "protonet", "head", "boxes", "masks", "RLE")


class Clock:
    """CPU seconds of each stage, round after round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def time(self, stage: str, action: Callable[[], T]) -> T:
        begin = time.process_time()
        result = action()
        self.seconds[stage].append(time.process_time() - begin)
        return result


@torch.inference_mode()
def measure(model: YOLACT, path: Path, rounds: int) -> tuple[dict[str, float], int]:
    """Median CPU seconds of each stage, and how many instances came out."""
    clock, found = Clock(), 0
    for _ in range(rounds):
        image = clock.time("decode", lambda: read_image(path))
        prepared = clock.time("stretch", lambda image=image: model.preprocess(image))  # type: ignore[misc]
        inputs = prepared.tensor[None].contiguous(memory_format=torch.channels_last)
        features = clock.time("backbone", lambda inputs=inputs: model.backbone(inputs))  # type: ignore[misc]
        pyramid = clock.time("pyramid", lambda features=features: model.fpn(features))  # type: ignore[misc]
        prototypes = clock.time("protonet", lambda pyramid=pyramid: model.protonet(pyramid[0]))[0]  # type: ignore[misc]
        answers = clock.time("head", lambda pyramid=pyramid: model.head(pyramid))  # type: ignore[misc]
        logits, deltas, coefficients = (answer[0] for answer in answers)
        arguments = (logits, deltas, coefficients, model.priors, model.config)
        boxes = clock.time("boxes", lambda arguments=arguments: detect(*arguments))  # type: ignore[misc]

        given = (prototypes, boxes, prepared.original_size)
        large = clock.time("masks", lambda given=given: masks(model, *given))  # type: ignore[misc]
        clock.time("RLE", lambda large=large: rle.encode(large))  # type: ignore[misc]
        found = len(large)
    return {stage: median(times) for stage, times in clock.seconds.items()}, found


def masks(model: YOLACT, prototypes: Tensor, found: Detections, size: tuple[int, int]) -> Tensor:
    """From detections to masks at the photograph's size, in YOLACT++ rated too."""
    soft = assemble(prototypes, found)
    if model.mask_iou is not None:
        model.mask_iou(soft[:, None])
    return enlarge(soft, found.boxes, size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="with more, their waiting counts as CPU time too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    image = photograph()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        print(f"CPU milliseconds, median of {options.rounds} round(s), weights without training\n")
        titles = (*STAGES, "total", "instances", "M weights")
        print(f"{'variant':20}" + "".join(f"{title:>11}" for title in titles))
        for variant in options.variants:
            model = network(variant, image)
            parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            fold_batch_norms(model)
            seconds, found = measure(model.to(memory_format=torch.channels_last), path, options.rounds)
            times = [*seconds.values(), sum(seconds.values())]
            numbers = [*(f"{1000 * value:.1f}" for value in times), str(found), f"{parameters:.1f}"]
            print(f"{variant:20}" + "".join(f"{number:>11}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
