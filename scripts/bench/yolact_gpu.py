"""YOLACT on a GPU: photographs a second, eager, compiled and in bf16, alone and 32 at once, beside published FPS.

python scripts/bench/yolact_gpu.py                               every published variant
python scripts/bench/yolact_gpu.py --variants resnet50_550       one of them

From normalised inputs on the GPU to masks of 480x640 there, as the published figures count; these are for one
photograph at a time on a Titan Xp, from the original's README (im400 from the paper).
"""

import time
from copy import deepcopy
from statistics import median

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.batches import Prepared
from common.data.images import resize
from common.ops.batch_norm_folding import fold_batch_norms
from maskworks.command_line import program
from maskworks.command_line.variants import choose
from maskworks.shapes.scenes import draw_scene
from yolact.config import VARIANTS
from yolact.network import YOLACT

PUBLISHED = {
    "resnet50_550": 42.5,
    "darknet53_550": 40.0,
    "base": 33.5,
    "im700": 23.6,
    "im400": 45.3,
    "plus_resnet50_550": 33.5,
    "plus_base": 27.3,
}
BATCHES = (1, 32)
WARM_UP = 5
CANDIDATES = 1000  # priors above the score threshold, as on a busy photograph
LARGER = 8.0  # exp(0.2 * 8): five times the side of the prior


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


@torch.inference_mode()
def frames_per_second(model: YOLACT, prepared: Prepared, batch: int, dtype: torch.dtype, rounds: int) -> float:
    inputs = prepared.tensor.to(model.priors.device)[None].repeat(batch, 1, 1, 1)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    seconds = []
    for _ in range(WARM_UP + rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        find(model, inputs, prepared, dtype)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return batch / median(seconds[WARM_UP:])


def find(model: YOLACT, inputs: Tensor, prepared: Prepared, dtype: torch.dtype) -> None:
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        answers = model(inputs)
    for row in range(len(inputs)):
        model.instances(answers, row, prepared)


def main(variants: tuple[str, ...] = tuple(PUBLISHED), rounds: int = 30) -> None:
    if not torch.cuda.is_available():
        print("No GPU here: nothing was measured.")
        return
    image = resize(draw_scene(0, "val", 0).image, 480, 640)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}: photographs a second\n")
    ways = [(way, dtype, batch) for way in ("eager", "compiled") for dtype in ("fp32", "bf16") for batch in BATCHES]
    titles = [f"{way} {dtype} x{batch}" for way, dtype, batch in ways]
    print(f"{'variant':20}{'published':>10}" + "".join(f"{title:>19}" for title in titles))
    for variant in variants:
        model = network(variant, image)
        prepared = model.preprocess(image)
        fold_batch_norms(model)
        model = model.cuda().to(memory_format=torch.channels_last)
        line = f"{variant:20}{PUBLISHED[variant]:>10}"
        compiled = False
        for way, dtype, batch in ways:
            if way == "compiled" and not compiled:
                model.compile()
                compiled = True
            kind = torch.bfloat16 if dtype == "bf16" else torch.float32
            line += f"{frames_per_second(model, prepared, batch, kind, rounds):>19.1f}"
        print(line, flush=True)


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
