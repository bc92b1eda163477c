"""Number formats of the forward pass."""

import functools

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def full_precision(device: torch.device) -> torch.autocast:
    """For coordinates, counts and resizing: all digits, also where the network around them runs on fewer."""
    return torch.autocast(device.type, enabled=False)


@functools.cache
def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that knows no wider one, as MPS."""
    try:
        return torch.empty(0, dtype=torch.float64, device=device).dtype
    except (TypeError, RuntimeError):
        return torch.float32
