"""efficientnet_b0_coco beside resnet50_coco: parameters, FLOPs and processor time, as upsnet/README.md has them.

    OMP_NUM_THREADS=1 python scripts/bench/upsnet_backbones.py

One photograph of 640 x 480, on one thread: what looks at the whole image, the box head on 1000 proposals, and the mask
head on 100 boxes. Weights are made up, as they change nothing here. A multiplication and an addition are two FLOPs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import tyro
from _timing import measure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import upsnet
from upsnet.classes import COCO
from upsnet.heads import BoxHead, MaskHead, region_features
from upsnet.network import UPSNet

VARIANTS = ("resnet50_coco", "efficientnet_b0_coco")


def deformable_flops(features: Any, weight: Any, *_: Any, out_shape: tuple[int, ...], **__: Any) -> int:
    """Of torchvision's deformable convolution: those of a plain one, and seven for each bilinear sample."""
    images, outputs, height, width = out_shape
    inputs, rows, columns = (int(length) for length in weight[1:])
    taps = images * height * width * inputs * rows * columns
    return 2 * taps * outputs + 7 * taps


def parts(model: UPSNet, height: int, width: int, proposals: int, boxes: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name: of a photograph, of so many regions for the box head and for the mask head."""
    prepared = model.preprocess(np.zeros((height, width, 3), np.uint8))
    images = torch.randn(1, *prepared.tensor.shape)
    answers = model(images)
    regions = boxes_in(prepared.resized_size, proposals)
    return {
        "whole image": lambda: model(images),
        f"{proposals} boxes": lambda: model.box_head(region_features(answers.pyramid, [regions], BoxHead.size)),
        f"{boxes} masks": lambda: model.mask_head(region_features(answers.pyramid, [regions[:boxes]], MaskHead.size)),
    }


def boxes_in(size: tuple[int, int], count: int) -> Tensor:
    """Boxes of all sizes and places in an image (height, width)."""
    generator = torch.Generator().manual_seed(0)
    limits = torch.tensor([size[1], size[0]]) - 1
    corners = torch.rand(count, 2, 2, generator=generator).sort(dim=1).values * limits
    return corners.reshape(count, 4)


def flops(way: Callable[[], object]) -> int:
    mapping = {torch.ops.torchvision.deform_conv2d: deformable_flops}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        way()
    return int(counter.get_total_flops())


@torch.no_grad()
def main(height: int = 480, width: int = 640, rounds: int = 2, proposals: int = 1000, boxes: int = 100) -> None:
    """Of each part the lowest time of so many rounds is printed."""
    torch.set_num_threads(1)
    print(f"{'':24}{'part':16}{'parameters':>12}{'GFLOP':>10}{'CPU seconds':>14}")
    for variant in VARIANTS:
        torch.manual_seed(0)
        model = UPSNet(upsnet.VARIANTS[variant], list(COCO)).eval()
        ways = parts(model, height, width, proposals, boxes)
        work = {name: flops(way) / 1e9 for name, way in ways.items()}
        seconds = {name: min(times) for name, times in measure(ways, rounds).items()}
        parameters = sum(value.numel() for value in model.parameters()) / 1e6
        backbone = sum(value.numel() for value in model.backbone.parameters()) / 1e6
        for name in ways:
            print(f"{variant:24}{name:16}{'':12}{work[name]:10.1f}{seconds[name]:14.2f}")
        total = f"{parameters:11.1f}M{sum(work.values()):10.1f}{sum(seconds.values()):14.2f}"
        print(f"{variant:24}{'together':16}{total}   (its backbone: {backbone:.1f}M)")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
