"""Where the time of one photograph goes in SOLOv2: decode, resize, network, post-processing, RLE; for every variant.

python scripts/bench/solov2_stages.py                             all variants, a photograph of 480x640
python scripts/bench/solov2_stages.py --variants light_r18_448    one of them
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import TypeVar

import cv2
import torch

from common.data.images import read_image, resize
from common.ops import masks as rle
from common.ops.folding import fold_batch_norms
from maskworks.shapes.scenes import draw_scene
from solov2.config import VARIANTS
from solov2.network import SOLOv2
from solov2.postprocess import instances_from_answers

T = TypeVar("T")
STAGES = ("decode", "resize", "network", "post-process", "RLE")
CANDIDATES = 300  # masks that enter matrix NMS


def timed(seconds: dict[str, list[float]], stage: str, action: Callable[[], T]) -> T:
    begin = time.process_time()
    result = action()
    seconds[stage].append(time.process_time() - begin)
    return result


@torch.inference_mode()
def measure(variant: str, photograph: Path, rounds: int, precision: str) -> tuple[dict[str, float], int, float]:
    """Median CPU seconds of each stage, how many instances came out, and millions of parameters."""
    config = deepcopy(VARIANTS[variant])
    torch.manual_seed(0)
    model = SOLOv2(config, [f"class {number}" for number in range(80)]).eval()
    fold_batch_norms(model.backbone)
    model = model.to(memory_format=torch.channels_last)
    config.test.update_threshold = 0.0
    seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}
    found = 0
    for _ in range(rounds):
        image = timed(seconds, "decode", lambda: read_image(photograph))
        prepared = timed(seconds, "resize", lambda image=image: model.preprocess(image))  # type: ignore[misc]
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            answers = timed(seconds, "network", lambda prepared=prepared: model(prepared.tensor[None]))  # type: ignore[misc]
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
        result = timed(seconds, "post-process", lambda arguments=arguments: instances_from_answers(*arguments))  # type: ignore[misc]
        assert result.masks is not None
        masks = result.masks
        timed(seconds, "RLE", lambda masks=masks: rle.encode(masks))  # type: ignore[misc]
        found = len(result)
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return {stage: median(times) for stage, times in seconds.items()}, found, parameters


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=1, help="the large variants take a minute each")
    parser.add_argument("--threads", type=int, default=1, help="with more, their waiting counts as CPU time too")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        photograph = Path(folder) / "scene.jpg"
        scene = resize(draw_scene(0, "val", 0).image, 480, 640)
        cv2.imwrite(str(photograph), cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))
        print(f"CPU milliseconds, median of {options.rounds} round(s), weights without training, {options.precision}\n")
        titles = (*STAGES, "instances", "M weights")
        print(f"{'variant':20}" + "".join(f"{title:>14}" for title in titles))
        for variant in options.variants:
            seconds, found, parameters = measure(variant, photograph, options.rounds, options.precision)
            numbers = [*(f"{1000 * seconds[stage]:.1f}" for stage in STAGES), str(found), f"{parameters:.1f}"]
            print(f"{variant:20}" + "".join(f"{number:>14}" for number in numbers), flush=True)


if __name__ == "__main__":
    main()
