"""What YOLACT's benchmarks share: networks without training that nevertheless find as much as trained ones do."""

from copy import deepcopy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.data.images import resize
from maskworks.command_line.variants import choose
from maskworks.shapes.scenes import draw_scene
from yolact.config import VARIANTS
from yolact.network import YOLACT

CANDIDATES = 1000  # priors above the score threshold, as on a busy photograph
LARGER = 8.0  # exp(0.2 * 8): five times the side of the prior


def photograph(height: int = 480, width: int = 640) -> NDArray[np.uint8]:
    return resize(draw_scene(0, "val", 0).image, height, width)


@torch.no_grad()
def network(variant: str, image: NDArray[np.uint8]) -> YOLACT:
    """Random weights, batch norms set to this photograph's statistics, a threshold that leaves CANDIDATES priors."""
    torch.manual_seed(0)
    model = YOLACT(deepcopy(choose(VARIANTS, variant)), [f"class {number}" for number in range(80)])
    inputs = model.preprocess(image).tensor[None]
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    model.train()(inputs)
    model.eval()
    model.head.deltas.weight.mul_(0.3)
    model.head.deltas.bias.view(-1, 4)[:, 2:] = LARGER  # priors alone would be smaller than objects are
    best = model(inputs).class_logits[0].softmax(dim=1)[:, 1:].amax(dim=1)
    model.config.test.score_threshold = float(best.topk(CANDIDATES + 1).values[-1])
    return model
