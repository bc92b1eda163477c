"""A pretended accelerator: `python -m tests.accelerator solov2.train FLAGS...` runs a module with --device pretend.

Its tensors say that they are on another device and are computed on the processor. As on a GPU, an operation that mixes
them with the processor's tensors fails, and so does one that takes them for NumPy's; as on MPS, float64 is unknown.
What is left behind on the processor, or made on it by default, is found without a GPU.
"""

import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
MOVING = {"aten::_to_copy", "aten::copy_"}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}  # by tensors from anywhere
SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # newer versions of PyTorch


class Away(Tensor):
    """A tensor of the pretended device; `inner` holds its numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Away":
        return torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined,no-any-return]
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: Tensor):
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(function, arguments, dict(named or {}))


class Operations(TorchDispatchMode):
    """Those without an Away among their arguments, which may make one."""

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        return compute(function, arguments, dict(named or {}))


class Functions(TorchFunctionMode):
    """What PyTorch does in C++ with a device's own memory, and cannot with a pretended one's."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(named or {})
        if function in (torch.tensor, torch.as_tensor) and "device" in named:
            device = named.pop("device")
            return function(*arguments, **named).to(device)
        if function is Tensor.new_tensor:
            device, dtype = named.pop("device", arguments[0].device), named.pop("dtype", arguments[0].dtype)
            return torch.tensor(arguments[1], dtype=dtype).to(device)
        if function is Tensor.tolist and isinstance(arguments[0], Away):
            return arguments[0].detach().cpu().tolist()
        if function in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(arguments[0], Away):
            tensor, index, *value = arguments
            index = tuple(map(as_index, index)) if isinstance(index, tuple) else as_index(index)
            return function(tensor, index, *value)
        return function(*arguments, **named)


def as_index(index: Any) -> Any:
    return torch.as_tensor(index) if isinstance(index, np.ndarray | list) else index


def compute(function: Any, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
    """An operation, on the processor; its results are away if its arguments are, or if it is told so."""
    name, goes_to = function._schema.name, named.get("device")
    tensors = [each for each in tree_leaves((arguments, named)) if isinstance(each, Tensor)]
    away = [each for each in tensors if isinstance(each, Away)]
    refuse_mixed(name, tensors, bool(away))
    if goes_to is not None:
        named |= {"device": torch.device("cpu")} | ({"pin_memory": False} if "pin_memory" in named else {})
    results = function(*tree_map(inside, arguments), **tree_map(inside, named))
    if goes_to is not None:
        stays = torch.device(goes_to).type != NAME
    else:
        stays = not isinstance(arguments[0], Away) if name == "aten::copy_" else not away
    if stays:
        return results
    if any(isinstance(each, Tensor) and each.dtype == torch.float64 for each in tree_leaves(results)):
        raise TypeError(f"{name}: this device knows no float64")
    given = {id(each.inner): each for each in away}  # in-place operations return what they were given

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return given[id(value)] if id(value) in given else Away(value)

    return tree_map(outside, results)


def refuse_mixed(name: str, tensors: Sequence[Tensor], any_away: bool) -> None:
    """As CUDA does; single numbers may come from the processor."""
    here = [each for each in tensors if not isinstance(each, Away) and each.ndim > 0]
    if not (here and any_away) or name in MOVING or (name in INDEXING and isinstance(tensors[0], Away)):
        return
    shapes = [f"{each.device} {tuple(each.shape)}" for each in tensors]
    raise RuntimeError(f"{name}: expected all tensors on the same device, but found {', '.join(shapes)}")


def inside(value: Any) -> Any:
    return value.inner if isinstance(value, Away) else value


@contextmanager
def accelerator() -> Iterator[torch.device]:
    """Within it, tensors may be made on or moved to the device `pretend`, which stays known to the process."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, Backend())
    with Functions(), Operations():
        yield torch.device(NAME, 0)


class Backend(backend_registration._DummyBackendModule if SUPPORTED else object):  # type: ignore[misc]
    """What PyTorch asks of a kind of device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def _is_in_bad_fork(self) -> bool:
        return False


def main() -> None:
    module, *flags = sys.argv[1:]
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]  # whose tensors go past what is pretended
    sys.argv = [module, *flags, "--device", NAME]
    with accelerator():
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
