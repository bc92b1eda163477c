"""Where the time of one photograph goes in YOLACT: decode, stretch, network by part, boxes, masks, RLE; every variant.

python scripts/bench/yolact_stages.py                            all variants, a photograph of 480x640
python scripts/bench/yolact_stages.py --variants resnet50_550    one of them
"""

import tempfile
from functools import partial
from pathlib import Path

import cv2
import torch
import tyro
from _timing import Clock
from _yolact import network, photograph
from torch import Tensor

from common.data.images import read_image
from common.ops import masks as rle
from common.ops.batch_norm_folding import fold_batch_norms
from common.run import program
from yolact.config import VARIANTS
from yolact.network import YOLACT
from yolact.postprocess import Detections, assemble, detect, enlarge

STAGES = ("decode", "stretch", "backbone", "pyramid", "protonet", "head", "boxes", "masks", "RLE")


@torch.inference_mode()
def measure(model: YOLACT, path: Path, rounds: int) -> tuple[dict[str, float], int]:
    """Median CPU seconds of each stage, and how many instances came out."""
    clock, found = Clock(), 0
    for _ in range(rounds):
        image = clock.time("decode", partial(read_image, path))
        prepared = clock.time("stretch", partial(model.preprocess, image))
        inputs = prepared.tensor[None].contiguous(memory_format=torch.channels_last)
        features = clock.time("backbone", partial(model.backbone, inputs))
        pyramid = clock.time("pyramid", partial(model.fpn, features))
        prototypes = clock.time("protonet", partial(model.protonet, pyramid[0]))[0]
        logits, deltas, coefficients = (answer[0] for answer in clock.time("head", partial(model.head, pyramid)))
        boxes = clock.time("boxes", partial(detect, logits, deltas, coefficients, model.priors, model.config))
        large = clock.time("masks", partial(masks, model, prototypes, boxes, prepared.original_size))
        clock.time("RLE", partial(rle.encode, large))
        found = len(large)
    return clock.medians(), found


def masks(model: YOLACT, prototypes: Tensor, found: Detections, size: tuple[int, int]) -> Tensor:
    """From detections to masks at the photograph's size, in YOLACT++ rated too."""
    soft = assemble(prototypes, found)
    if model.mask_iou is not None:
        model.mask_iou(soft[:, None])
    return enlarge(soft, found.boxes, size)


def main(variants: tuple[str, ...] = tuple(VARIANTS), rounds: int = 3, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    image = photograph()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.jpg"
        cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        print(f"CPU milliseconds, median of {rounds} round(s), weights without training\n")
        titles = (*STAGES, "total", "instances", "M weights")
        print(f"{'variant':20}" + "".join(f"{title:>11}" for title in titles))
        for variant in variants:
            model = network(variant, image)
            parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
            fold_batch_norms(model)
            seconds, found = measure(model.to(memory_format=torch.channels_last), path, rounds)
            times = [*seconds.values(), sum(seconds.values())]
            numbers = [*(f"{1000 * value:.1f}" for value in times), str(found), f"{parameters:.1f}"]
            print(f"{variant:20}" + "".join(f"{number:>11}" for number in numbers), flush=True)


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
