"""Where the time goes: milliseconds and frames per second of each stage, for the benchmark mode of eval.py."""

import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from common.data.images import is_video, list_images, read_image
from common.errors import UserError
from common.ops.precision import autocast
from common.run.runlog import Bar
from maskworks import shapes
from yolact.network import YOLACT
from yolact.show import Show

STAGES = ("prepare", "network", "post-process", "total")
PERCENTILES = (50, 90, 99)
WARM_UP = 5
Seconds = dict[str, list[float]]  # of each stage, one for each photograph


def benchmark(model: YOLACT, options: Show) -> None:
    images = photographs(options.photographs, options.max_images)
    seconds = measure(model, images, options.precision)
    where = f"{model.priors.device.type}, {options.precision}, {torch.get_num_threads()} threads"
    print(f"{model.config.variant}, {len(images)} photographs one at a time, {where}")
    Console(width=100).print(table(seconds))


@torch.inference_mode()
def measure(model: YOLACT, images: Sequence[NDArray[np.uint8]], precision: str = "fp32") -> Seconds:
    """Each photograph alone: stretched and normalised, through the network, boxes chosen and masks assembled."""
    device = model.priors.device
    seconds: Seconds = {stage: [] for stage in STAGES}
    with Bar("measuring", len(images)) as bar:
        for image in [*images[:1]] * WARM_UP + list(images):
            moments = [now(device)]
            prepared = model.preprocess(image)
            inputs = prepared.tensor[None].to(device)
            moments.append(now(device))
            with autocast(device, precision):
                answers = model(inputs)
            moments.append(now(device))
            model.instances(answers, 0, prepared)
            moments.append(now(device))
            parts = [end - begin for begin, end in pairwise(moments)]
            for stage, value in zip(STAGES, (*parts, sum(parts)), strict=True):
                seconds[stage].append(value)
            bar.advance()
    return {stage: values[WARM_UP:] for stage, values in seconds.items()}


def now(device: torch.device) -> float:
    """The time at which all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def table(seconds: Seconds) -> Table:
    shown = Table()
    for title in ("", "mean ms", *(f"{percentile}% within" for percentile in PERCENTILES), "FPS"):
        shown.add_column(title, justify="right")
    for stage, values in seconds.items():
        within = (f"{1000 * value:.2f}" for value in np.percentile(values, PERCENTILES))
        shown.add_row(stage, f"{1000 * mean(values):.2f}", *within, f"{1 / mean(values):.1f}")
    return shown


def photographs(sources: Sequence[str], limit: int) -> list[NDArray[np.uint8]]:
    if not sources:
        sources = [str(shapes.ensure("val").images)]
    paths = [path for path in list_images(sources) if not is_video(path)]
    if not paths:
        raise UserError(f"--photographs {' '.join(sources)}: no photograph there, only videos")
    return [read_image(path) for path in paths[:limit]]
