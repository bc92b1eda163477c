"""--precision auto: the fastest number format that is safe on a device."""

import time

import torch
import torch.nn.functional as F

from common.ops.precision import autocast

CLEARLY = 1.3  # so many times as fast, or the loss of digits isn't worth it


def fastest(device: torch.device) -> str:
    """bf16 where it is clearly faster, else fp32; found by trying, as many processors compute bf16 the slow way."""
    times = {}
    for precision in ("fp32", "bf16"):
        try:
            times[precision] = convolution_seconds(device, precision)
        except RuntimeError:  # a device without the format
            times[precision] = float("inf")
    return "bf16" if CLEARLY * times["bf16"] < times["fp32"] else "fp32"


@torch.inference_mode()
def convolution_seconds(device: torch.device, precision: str, tries: int = 4) -> float:
    """The best time of a convolution as backbones have them."""
    features = torch.ones(1, 128, 64, 64, device=device).to(memory_format=torch.channels_last)
    weight = torch.ones(128, 128, 3, 3, device=device).to(memory_format=torch.channels_last)
    times = []
    for _ in range(tries):
        started = time.perf_counter()
        with autocast(device, precision):
            float(F.conv2d(features, weight, padding=1)[0, 0, 0, 0])  # waits for the device
        times.append(time.perf_counter() - started)
    return min(times)
