"""A parity case: an original network's checkpoint layout, its inputs and what it computed from them.

A case is a folder with spec.json (settings, layout, tolerances) and golden.npz (arrays named in/..., out/...
and const/...). It holds no weights: every parameter is a fixed function of its name and shape, `fill`.
"""

import fnmatch
import hashlib
import json
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import UserError

Array = NDArray[Any]
SAMPLE = "@sample"
SAMPLE_LIMIT = 20_000


def fill(name: str, shape: tuple[int, ...], overrides: dict[str, dict[str, float]] | None = None) -> Array:
    """The made-up value of the parameter or buffer `name`, the same on every machine."""
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    changes = [change for pattern, change in (overrides or {}).items() if fnmatch.fnmatchcase(name, pattern)]
    if not changes:
        return kept(name, shape).copy()
    value = drawn(name, shape)
    for change in changes:
        value = value * change.get("scale", 1.0) + change.get("shift", 0.0)
    return np.asarray(value, np.float32)


@lru_cache(400)  # a ResNet's; the cases of a system have many parameters in common
def kept(name: str, shape: tuple[int, ...]) -> Array:
    return np.asarray(drawn(name, shape), np.float32)


def drawn(name: str, shape: tuple[int, ...]) -> Array:
    digest = hashlib.sha256(name.encode()).digest()
    # RandomState, not default_rng: its stream is frozen for good.
    random = np.random.RandomState(int.from_bytes(digest[:4], "little"))
    value: Array
    if name.endswith("running_mean"):
        value = 0.1 * random.standard_normal(shape)
    elif name.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:  # a convolution or matrix: unit variance, divided by its fan-in
        value = random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):  # the scale of a normalisation
        value = random.uniform(0.8, 1.2, shape)
    else:
        value = 0.05 * random.standard_normal(shape)
    return value


def sample(array: Array, limit: int = SAMPLE_LIMIT) -> Array:
    """Evenly spread values of a large array, in C order: every k-th, with the least k that keeps `limit`."""
    flat: Array = np.ascontiguousarray(array).reshape(-1)
    return flat[:: max(1, -(-flat.size // limit))]


@dataclass(frozen=True)
class Case:
    """One case, read into memory."""

    folder: Path
    spec: dict[str, Any]
    arrays: dict[str, Array]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def system(self) -> str:
        return str(self.spec["system"])

    @property
    def sample_limit(self) -> int:
        """How many values `@sample` arrays of this case keep at most."""
        return int(self.spec.get("sample_limit", SAMPLE_LIMIT))

    @property
    def inputs(self) -> dict[str, Array]:
        return {key.removeprefix("in/"): value for key, value in self.arrays.items() if key.startswith("in/")}

    @property
    def outputs(self) -> dict[str, Array]:
        return {key.removeprefix("out/"): value for key, value in self.arrays.items() if key.startswith("out/")}

    def checkpoint(self) -> dict[str, Array]:
        """The state dict that the original's published checkpoint would hold, under its names."""
        overrides = self.spec.get("overrides") or {}
        constants = {
            key.removeprefix("const/"): value for key, value in self.arrays.items() if key.startswith("const/")
        }
        return {
            name: constants[name] if name in constants else fill(name, tuple(entry["shape"]), overrides)
            for name, entry in self.spec["state_dict"].items()
        }

    def tensor(self, name: str, device: str) -> Tensor:
        """An input, there."""
        return torch.from_numpy(self.inputs[name]).to(device)

    def unpacked(self, name: str, section: str = "inputs") -> Array:
        """The bool array whose bits are packed in the input or output `name`; its shape is in the spec."""
        packed = self.arrays[("in/" if section == "inputs" else "out/") + name]
        entry = self.spec[section][name.removesuffix("@bits")]
        shape = tuple(entry["unpacked_shape"] if "unpacked_shape" in entry else entry["shape"])
        return np.unpackbits(packed.reshape(-1), count=int(np.prod(shape))).reshape(shape).astype(bool)


def read_case(folder: str | Path) -> Case:
    """The case in `folder`."""
    folder = Path(folder)
    spec_path, golden_path = folder / "spec.json", folder / "golden.npz"
    for path in (spec_path, golden_path):
        if not path.is_file():
            raise UserError(f"{path} does not exist: a case is a folder with spec.json and golden.npz")
    try:
        spec = json.loads(spec_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{spec_path} is not JSON ({error})") from error
    missing = [key for key in ("system", "state_dict") if not isinstance(spec, dict) or key not in spec]
    if missing:
        raise UserError(f"{spec_path} is not the spec of a case: it has no {' and no '.join(missing)}")
    try:
        with np.load(golden_path, allow_pickle=False) as arrays:
            return Case(folder, spec, {key: arrays[key] for key in arrays.files} | output_files(folder))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{golden_path} cannot be read ({error}): copy the case again") from error


def output_files(folder: Path) -> dict[str, Array]:
    """The texts that some originals write, as arrays without dimensions named after the files."""
    paths = (path for path in sorted((folder / "outputs").rglob("*")) if path.suffix in (".json", ".txt"))
    return {
        f"out/{path.relative_to(folder / 'outputs').as_posix()}": np.array(path.read_text(encoding="utf-8"))
        for path in paths
    }


def write_case(folder: Path, spec: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Writes a case in the format that `read_case` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(spec, indent=1) + "\n", encoding="utf-8")
    np.savez_compressed(folder / "golden.npz", **arrays)  # type: ignore[arg-type]
