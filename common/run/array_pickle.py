"""Pickles of NumPy arrays, as Caffe2-age projects published their weights: read without running anything in them."""

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

# all that arrays and plain data need; NumPy 2 renamed the module, protocol 5 puts an array's bytes into a buffer
ALLOWED: dict[str, Callable[..., Any]] = {
    "numpy._core.multiarray._reconstruct": multiarray._reconstruct,
    "numpy._core.multiarray.scalar": multiarray.scalar,
    "numpy._core.numeric._frombuffer": numeric._frombuffer,  # type: ignore[attr-defined]
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
}
PLAIN = {("_codecs", "encode"), ("collections", "OrderedDict"), ("builtins", "set"), ("builtins", "frozenset")}


class Left:
    """What a training framework left beside the weights: an object that stays empty."""

    def __setstate__(self, state: object) -> None:
        pass


def left(*_: object) -> Left:
    return Left()


def safe_globals() -> list[Any]:
    """What else torch.load may make of a file: arrays, and MMEngine's curves, of which only the husk is left."""
    arrays = ALLOWED | {name.replace("._core.", ".core."): value for name, value in ALLOWED.items()}
    kinds = [kind for name, kind in vars(np.dtypes).items() if name.endswith("DType")]
    return [
        *((value, name) for name, value in arrays.items()),
        *kinds,
        (Left, "mmengine.logging.history_buffer.HistoryBuffer"),
        (left, "builtins.getattr"),
    ]


class ArraysOnly(pickle.Unpickler):
    """An unpickler that makes arrays and plain data, and refuses whatever else a file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        module = re.sub(r"^numpy\.core\b", "numpy._core", module).replace("__builtin__", "builtins")
        if f"{module}.{name}" in ALLOWED:
            return ALLOWED[f"{module}.{name}"]
        if (module, name) not in PLAIN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_array_pickle(path: Path) -> Any:
    """What the file holds; raises any kind of exception if it is broken or asks for more than arrays."""
    with path.open("rb") as file:
        return ArraysOnly(file, encoding="latin1").load()
