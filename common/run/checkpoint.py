"""Checkpoints: one safetensors file holds the weights, the configuration and the class names; nothing is unpickled.

Files are written beside their place, flushed to disk and renamed, so that a kill at any moment leaves the previous
one whole.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import escape as glob_escape
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError
from common.files import write_atomically
from common.ops.folding import fold_batch_norms
from common.run.array_pickle import read_array_pickle, safe_globals
from common.run.configuration import from_dict
from common.run.model import Learner

C = TypeVar("C")
M = TypeVar("M", bound=Learner)
FORMAT = "1"  # of the metadata; raised when an older reader would misunderstand it


@dataclass
class Checkpoint:
    """A trained or converted model, as the file holds it."""

    package: str
    config: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of the classes, in the annotation files that they come from
    weights: dict[str, Tensor]


class Words(msgspec.Struct):
    """What a file says beside the weights."""

    config: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]


def save(path: Path, checkpoint: Checkpoint) -> None:
    metadata = {
        "format": FORMAT,
        "package": checkpoint.package,
        "config": json.dumps(checkpoint.config),
        "class_names": json.dumps(checkpoint.class_names),
        "category_ids": json.dumps(checkpoint.category_ids),
    }
    write_tensors(path, checkpoint.weights, metadata)


def load(path: Path) -> Checkpoint:
    weights, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: no maskworks checkpoint of format {FORMAT} (but {metadata.get('format', 'nothing')}); "
            "convert published checkpoints with scripts/mmdet2pytorch.py"
        )
    try:
        words = msgspec.convert(
            {key: json.loads(metadata[key]) for key in ("config", "class_names", "category_ids")}, Words
        )
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: what it says beside the weights is broken ({error}); write it again") from error
    package = metadata.get("package", "nothing")
    return Checkpoint(package, words.config, words.class_names, words.category_ids, weights)


def open_model(
    file: str | Path,
    package: str,
    config_type: type[C],
    network: Callable[[C, tuple[str, ...], tuple[int, ...]], M],
    trainable: bool = False,
) -> M:
    """The model in a checkpoint of ours, ready to predict.

    Batch norms become part of the convolutions before them, which is faster and which training can't undo; `trainable`
    keeps them.
    """
    found = load(Path(file))
    if found.package != package:
        raise UserError(f"{file}: a checkpoint of {found.package}, not of {package}")
    config = from_dict(config_type, found.config, str(file))
    with torch.device("meta"):  # takes no memory, whatever sizes the file claims
        check_weights(network(config, found.class_names, found.category_ids), found.weights, str(file))
    model = network(config, found.class_names, found.category_ids)
    model.load_state_dict(dict(found.weights))
    if not trainable:
        fold_batch_norms(model)
    return model.eval()


def load_weights(module: Learner | nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Strictly: every name must be there, none too many, and every shape must agree."""
    check_weights(module, weights, source)
    module.load_state_dict(dict(weights))


def check_weights(module: Learner | nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that don't fit, naming each; the module may be on the meta device, without memory."""
    expected = module.state_dict()
    complaints = [f"missing: {name}" for name in expected if name not in weights]
    complaints += [f"unexpected: {name}" for name in weights if name not in expected]
    complaints += [f"{name}: {kind}, expected a plain tensor" for name in weights if (kind := odd(weights[name]))]
    complaints += [
        f"{name}: shape {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and not odd(weights[name]) and weights[name].shape != value.shape
    ]
    if complaints:
        raise UserError(f"{source}: the weights do not fit the network\n  " + "\n  ".join(complaints))


def odd(value: object) -> str:
    """What keeps a value from being copied into a parameter; empty for plain tensors."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided:
        return str(value.layout)
    return str(value.dtype) if value.is_complex() or value.is_quantized else ""


def read_checkpoint_or_published(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights in a file of ours or somebody else's, and the class names if it says them."""
    if path.suffix == ".safetensors":
        weights, metadata = read_tensors(path)
        known = load(path).class_names if metadata.get("format") == FORMAT else ()
        return weights, known
    return read_published(path)[0], ()


def read_published(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of somebody else's checkpoint, and the rest of the file; only tensors and plain data are read."""
    if path.suffix == ".safetensors":
        return read_tensors(path)[0], {}
    _require_file(path)
    try:
        content = _read_pickle(path)
    except Exception as error:  # many kinds are raised for a file that is broken or holds code
        found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))  # in PyTorch's advice, which is long
        told = f"it asks for {found[1]}" if found else str(error).strip()
        reason = told.splitlines()[0] if told else type(error).__name__
        raise UserError(f"{path}: not read, since it is broken or holds more than tensors ({reason})") from error
    rest = dict(content) if isinstance(content, dict) else {}
    for key in ("state_dict", "model", "weight", "blobs"):
        if isinstance(rest.get(key), Mapping):
            content = rest.pop(key)
            break
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: a {type(content).__name__}; expected a state dict, or one under 'state_dict'")
    state = {str(name).removeprefix("module."): value for name, value in _tensors(dict(content)).items()}
    for name, value in state.items():
        if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
            raise UserError(f"{path}: {name} claims {tuple(value.shape)} numbers, but the file holds fewer")
    if not state:
        raise UserError(f"{path}: no tensors in it; expected a state dict, or one under 'state_dict'")
    return state, {key: value for key, value in rest.items() if not isinstance(value, Tensor)}


def _read_pickle(path: Path) -> Any:
    """PyTorch's file, or one of NumPy arrays, whatever its suffix."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if not zipped:
        content = read_array_pickle(path)
        if not isinstance(content, int):  # PyTorch's older format begins with a pickled number
            return content
    with torch.serialization.safe_globals(safe_globals()):
        return torch.load(path, map_location="cpu", weights_only=True)


def _tensors(content: Mapping[Any, Any]) -> dict[Any, Tensor]:
    return {name: tensor for name, value in content.items() if (tensor := _tensor(value)) is not None}


def _tensor(value: Any) -> Tensor | None:
    """A tensor or an array of numbers, one without dimensions too, in this machine's byte order."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "fiub" and value.dtype.itemsize <= 8:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    return value if isinstance(value, Tensor) else None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary, dict(metadata))
        except SafetensorError as error:  # of the system's errors it keeps the words only
            raise UserError(f"{path}: cannot be written ({error}); free some space, go on with --resume") from error

    write_atomically(path, write)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); was it copied to the end?") from error


def remove_unfinished(path: Path) -> None:
    """What processes that were killed while they wrote a file have left beside it; nobody may be writing it now."""
    for left in path.parent.glob(f".{glob_escape(path.name)}.*"):
        left.unlink(missing_ok=True)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
