"""Pickles of NumPy arrays, as Caffe2-age projects published their weights: read without running anything in them."""

import pickle
from pathlib import Path
from typing import Any

# all that a pickle of arrays needs; the module of NumPy's functions was renamed in NumPy 2
ALLOWED = {
    (module, name)
    for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that makes arrays and plain data, and refuses whatever else a file asks for."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def read_array_pickle(path: Path) -> Any:
    """What the file holds; raises any kind of exception if it is broken or asks for more than arrays."""
    with path.open("rb") as file:
        return ArraysOnly(file, encoding="latin1").load()
