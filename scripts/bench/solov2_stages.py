"""Where the time of one photograph goes in SOLOv2: decode, resize, network, post-processing, RLE; for every variant.

python scripts/bench/solov2_stages.py                             all variants, a photograph of 480x640
python scripts/bench/solov2_stages.py --variants light_r18_448    one of them
"""

import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Literal

import cv2
import torch
import tyro
from _timing import Clock

from common.data.images import read_image, resize
from common.ops import masks as rle
from common.ops.batch_norm_folding import fold_batch_norms
from common.run import program
from common.run.configuration import choose
from maskworks.shapes.scenes import draw_scene
from solov2.config import VARIANTS
from solov2.network import SOLOv2
from solov2.postprocess import instances_from_answers

STAGES = ("decode", "resize", "network", "post-process", "RLE")
CANDIDATES = 300  # masks that enter matrix NMS


@torch.inference_mode()
def measure(variant: str, photograph: Path, rounds: int, precision: str) -> tuple[dict[str, float], int, float]:
    """Median CPU seconds of each stage, how many instances came out, and millions of parameters."""
    config = deepcopy(choose(VARIANTS, variant))
    torch.manual_seed(0)
    model = SOLOv2(config, [f"class {number}" for number in range(80)]).eval()
    fold_batch_norms(model.backbone)
    model = model.to(memory_format=torch.channels_last)
    config.test.update_threshold = 0.0
    clock, found = Clock(), 0
    for _ in range(rounds):
        image = clock.time("decode", partial(read_image, photograph))
        prepared = clock.time("resize", partial(model.preprocess, image))
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            answers = clock.time("network", partial(model, prepared.tensor[None]))
        # weights without training: take as many cells as a busy photograph has, whatever their scores
        scores = torch.cat([logits.flatten() for logits in answers.category_logits]).float().sigmoid()
        config.test.score_threshold = float(scores.topk(CANDIDATES + 1).values[-1])
        arguments = (
            [logits[0] for logits in answers.category_logits],
            [kernels[0] for kernels in answers.kernels],
            answers.mask_feature[0],
            prepared,
            config.model.strides,
            config.test,
            model.class_names,
        )
        result = clock.time("post-process", partial(instances_from_answers, *arguments))
        assert result.masks is not None
        clock.time("RLE", partial(rle.encode, result.masks))
        found = len(result)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return clock.medians(), found, parameters


def main(
    variants: tuple[str, ...] = tuple(VARIANTS),
    rounds: int = 1,  # the large variants take a minute each
    threads: int = 1,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> None:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "scene.jpg"
        scene = resize(draw_scene(0, "val", 0).image, 480, 640)
        cv2.imwrite(str(photograph), cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))
        print(f"CPU milliseconds, median of {rounds} round(s), weights without training, {precision}\n")
        titles = (*STAGES, "instances", "M weights")
        print(f"{'variant':20}" + "".join(f"{title:>14}" for title in titles))
        for variant in variants:
            seconds, found, parameters = measure(variant, photograph, rounds, precision)
            numbers = [*(f"{1000 * seconds[stage]:.1f}" for stage in STAGES), str(found), f"{parameters:.1f}"]
            print(f"{variant:20}" + "".join(f"{number:>14}" for number in numbers), flush=True)


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
