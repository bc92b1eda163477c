"""The focal loss's CUDA kernel: built by nvcc when first needed, or ahead by python -m common.ops.focal_loss_cuda."""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.files import user_cache, write_atomically

_SOURCE = Path(__file__).with_name("focal_loss.cu")
# Where the kernel lies when built ahead. Another source has another name: nothing stale is loaded.
_BUILT_AHEAD = _SOURCE.with_suffix(f".{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]}.so")
_LOGIT_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def usable(logits: Tensor) -> bool:
    """Whether the kernel is there for this tensor; the first call on a device may build it."""
    fits = logits.is_cuda and logits.dtype in _LOGIT_TYPES and 0 < logits.numel() <= 1 << 30  # its indices have 32 bits
    return fits and _library(logits.device.index) is not None


def loss(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], summed: bool) -> Tensor:
    """logits [N, C], targets [N] int64 -> the loss's sum [], or each element's [N, C]."""
    out = _launch(logits, targets, gamma, weights, None, summed)
    return out.sum() if summed else out


def gradient(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Tensor:
    """The loss's gradient [N, C] for upstream, the gradient [] of its sum or [N, C] of its elements."""
    return _launch(logits, targets, gamma, weights, upstream.float().contiguous(), upstream.ndim == 0)


def _launch(
    logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], upstream: Tensor | None, summed: bool
) -> Tensor:
    """With upstream the gradient [N, C], else the losses [N, C], or if `summed` each block's sum of them."""
    logits, targets, library = logits.contiguous(), targets.contiguous(), _library(logits.device.index)
    assert library is not None  # usable() said so
    # 256 threads take 16 bytes each; a few rounds of blocks, so that the last one is short.
    blocks = min(-(-logits.nbytes // 4096), 4096)
    shape = [blocks] if summed and upstream is None else [*logits.shape]
    out = logits.new_empty(shape, dtype=torch.float32 if upstream is None else logits.dtype)
    problem = (logits.data_ptr(), _LOGIT_TYPES[logits.dtype], targets.data_ptr(), *logits.shape, gamma, *weights)
    pull = None if upstream is None else upstream.data_ptr()
    with torch.cuda.device(logits.device):
        stream = torch.cuda.current_stream().cuda_stream
        if (error := library.focal_loss(*problem, pull, summed, out.data_ptr(), blocks, stream)) != 0:
            raise RuntimeError(f"the focal loss kernel did not start: CUDA error {error}")
    return out


@functools.cache
def _library(device: int) -> ctypes.CDLL | None:
    """The kernel for this device: built ahead, or built before, or built now. None, and one line, without it."""
    try:
        if torch.version.cuda is None:
            raise UserError("this PyTorch was not built for CUDA")
        path = _BUILT_AHEAD
        if not path.exists():
            architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
            path = user_cache() / path.with_suffix(f".{architecture}.so").name
            if not path.exists():
                build(path, f"-arch={architecture}")
        library = ctypes.CDLL(str(path))
        pointer, integer, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_float
        problem_types: list[Any] = [pointer, integer, pointer, size, size, real, real, real]
        library.focal_loss.argtypes = [*problem_types, pointer, integer, pointer, integer, pointer]
        with torch.cuda.device(device):
            if (error := library.focal_loss_usable()) != 0:
                raise UserError(f"{path} does not run on this GPU (CUDA error {error}); delete it")
        return library
    except (UserError, OSError) as problem:
        logging.getLogger(__name__).warning(
            "The focal loss runs without its CUDA kernel, several times slower: %s", problem
        )
        return None


def build(library: Path, *architecture: str) -> None:
    """Compiles the kernel with nvcc into the file `library`; nobody ever sees half of it."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [*(f"{home}/bin" for home in homes if home), os.environ.get("PATH", "")]
    nvcc = shutil.which("nvcc", path=os.pathsep.join(folders))
    if nvcc is None:
        raise UserError("nvcc was not found; install the CUDA toolkit or set CUDA_HOME to its folder")
    command = [nvcc, "-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC", *architecture, str(_SOURCE), "-o"]
    try:
        write_atomically(library, lambda file: subprocess.check_output([*command, file], stderr=subprocess.STDOUT))
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.output.decode(errors="replace").split())[:300]
        raise UserError(f"nvcc could not build {_SOURCE.name}: {reason}") from None


if __name__ == "__main__":
    try:
        build(_BUILT_AHEAD, "-arch=all-major", "--threads=0")
    except UserError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
    print(_BUILT_AHEAD)
