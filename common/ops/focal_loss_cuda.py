"""The CUDA kernel of the focal loss: built by nvcc when first needed (or ahead: python -m common.ops.focal_loss_cuda).

common/ops/focal_loss.cu has a plain C interface and is loaded with ctypes, so one build fits every PyTorch.
"""

import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import UserError

_SOURCE = Path(__file__).with_name("focal_loss.cu")
_LOGIT_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_INDEX, _BOOL, _DENSE = 0, 1, 2
_THREADS = 256  # of a block, as in the source
_BLOCKS_PER_PROCESSOR = 32  # several rounds of blocks, so that the last one is short
_MOST_ELEMENTS = 1 << 30  # of one launch: its indices are 32 bits wide

logger = logging.getLogger(__name__)


def usable(logits: Tensor) -> bool:
    """Whether the kernel is there for this tensor; the first call on a device may build it."""
    return logits.dtype in _LOGIT_TYPES and _library(logits.device.index) is not None


def loss(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], summed: bool) -> Tensor:
    """logits [N, C], targets [N] int64 or [N, C] float or bool -> the loss's sum [], or each element's [N, C]."""
    logits, targets = _aligned(logits), _plain(targets)
    out = None if summed else torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    partial_sums = []
    for rows in _pieces(logits):
        piece = logits[rows]
        blocks = _blocks(piece)
        to = torch.empty(blocks, dtype=torch.float32, device=logits.device) if out is None else out[rows]
        _launch("forward", piece, targets[rows], gamma, weights, to.data_ptr(), int(summed), blocks)
        partial_sums.append(to)
    if out is not None:
        return out
    if not partial_sums:
        return torch.zeros((), dtype=torch.float32, device=logits.device)
    return partial_sums[0].sum() if len(partial_sums) == 1 else torch.cat(partial_sums).sum()


def gradient(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Tensor:
    """The loss's gradient [N, C] for upstream, the gradient [] of its sum or [N, C] of its elements."""
    logits, targets = _aligned(logits), _plain(targets)
    upstream = _aligned(upstream.float())
    scalar = upstream.ndim == 0
    out = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    for rows in _pieces(logits):
        piece = logits[rows]
        pull = upstream if scalar else upstream[rows]
        pointers = (pull.data_ptr(), int(scalar), out[rows].data_ptr())
        _launch("backward", piece, targets[rows], gamma, weights, *pointers, _blocks(piece))
    return out


def build(library: Path, *architecture: str) -> None:
    """Compiles the kernel with nvcc into the file `library`; nobody ever sees half of it."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".building-") as folder:
        built = Path(folder) / library.name
        command = [_nvcc(), "-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC", *architecture]
        done = subprocess.run([*command, "-o", str(built), str(_SOURCE)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = " ".join((done.stderr or done.stdout).split())[:300]
            raise UserError(f"nvcc could not build {_SOURCE.name}: {reason}")
        built.replace(library)


def built_ahead() -> Path:
    """Where running this module puts the kernel. Another source has another name: nothing stale is loaded."""
    return _SOURCE.parent / f"focal_loss.{_source_hash()}.so"


def _launch(
    direction: str,
    logits: Tensor,
    targets: Tensor,
    gamma: float,
    weights: tuple[float, float],
    *rest: int,
) -> None:
    library = _library(logits.device.index)
    assert library is not None  # usable() said so
    kind = _INDEX if targets.ndim == 1 else _BOOL if targets.dtype == torch.bool else _DENSE
    with torch.cuda.device(logits.device):
        error = getattr(library, f"focal_loss_{direction}")(
            logits.data_ptr(),
            _LOGIT_TYPES[logits.dtype],
            targets.data_ptr(),
            kind,
            *logits.shape,
            gamma,
            *weights,
            *rest,
            torch.cuda.current_stream().cuda_stream,
        )
    if error != 0:
        raise RuntimeError(f"the focal loss kernel did not start: CUDA error {error}")


def _aligned(tensor: Tensor) -> Tensor:
    """The kernel reads 16 bytes at a time."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()


def _plain(targets: Tensor) -> Tensor:
    return (targets.float() if targets.is_floating_point() else targets).contiguous()


def _pieces(logits: Tensor) -> Iterator[slice]:
    """Rows for each launch: almost always all of them."""
    count, classes = logits.shape
    if logits.numel() == 0:
        return
    # A multiple of 16 rows keeps the alignment of the pieces.
    at_once = max(16, _MOST_ELEMENTS // classes // 16 * 16)
    for start in range(0, count, at_once):
        yield slice(start, start + at_once)


def _blocks(logits: Tensor) -> int:
    per_block = _THREADS * (16 // logits.element_size())
    return min(-(-logits.numel() // per_block), _BLOCKS_PER_PROCESSOR * _processors(logits.device.index))


@functools.cache
def _processors(device: int) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@functools.cache
def _library(device: int) -> ctypes.CDLL | None:
    """The kernel for this device: built ahead, or built before, or built now. None, and one line, without it."""
    try:
        if torch.version.cuda is None:
            raise UserError("this PyTorch was not built for CUDA")
        path = built_ahead()
        if path.exists():
            return _load(path, device)
        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
        path = _cache_folder() / f"focal_loss.{_source_hash()}.{architecture}.so"
        if not path.exists():
            build(path, f"-arch={architecture}")
        return _load(path, device)
    except (UserError, OSError) as problem:
        logger.warning("The focal loss runs without its CUDA kernel, several times slower: %s", problem)
        return None


def _load(path: Path, device: int) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, integer, size, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong, ctypes.c_float
    problem: list[Any] = [pointer, integer, pointer, integer, size, size, real, real, real]
    library.focal_loss_forward.argtypes = [*problem, pointer, integer, integer, pointer]
    library.focal_loss_backward.argtypes = [*problem, pointer, integer, pointer, integer, pointer]
    with torch.cuda.device(device):
        error = library.focal_loss_usable()
    if error != 0:
        raise UserError(f"{path} does not run on this GPU (CUDA error {error}); delete it")
    return library


def _nvcc() -> str:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        if home and (found := shutil.which("nvcc", path=str(Path(home) / "bin"))):
            return found
    if found := shutil.which("nvcc"):
        return found
    raise UserError("nvcc was not found; install the CUDA toolkit or set CUDA_HOME to its folder")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskworks"


@functools.cache
def _source_hash() -> str:
    return hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:12]


def main() -> int:
    """Builds the kernel for all kinds of GPU into common/ops, for machines without nvcc and for packages."""
    library = built_ahead()
    try:
        build(library, "-arch=all-major", "--threads=0")
    except UserError as problem:
        print(problem, file=sys.stderr)
        return 2
    for other in library.parent.glob("focal_loss.*.so"):
        if other != library:
            other.unlink()
    print(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
