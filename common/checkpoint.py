"""Checkpoints: one safetensors file holds the weights, the configuration and the class names; nothing is unpickled.

Files are written beside their place, flushed to disk and renamed, so that a kill at any moment leaves the previous
one whole.
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from common.errors import UserError

FORMAT = "1"  # of the metadata; raised when an older reader would misunderstand it


@dataclass
class Checkpoint:
    """A trained or converted model, as the file holds it."""

    package: str
    config: dict[str, Any]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # of the classes, in the annotation files that they come from
    weights: dict[str, Tensor]


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
    return Checkpoint(
        package=metadata["package"],
        config=json.loads(metadata["config"]),
        class_names=tuple(json.loads(metadata["class_names"])),
        category_ids=tuple(json.loads(metadata["category_ids"])),
        weights=weights,
    )


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Strictly: every name must be there, none too many, and every shape must agree."""
    expected = module.state_dict()
    complaints = [f"missing: {name}" for name in expected if name not in weights]
    complaints += [f"unexpected: {name}" for name in weights if name not in expected]
    complaints += [
        f"{name}: shape {tuple(weights[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and weights[name].shape != value.shape
    ]
    if complaints:
        raise UserError(f"{source}: the weights do not fit the network\n  " + "\n  ".join(complaints))
    module.load_state_dict(dict(weights))


def read_checkpoint_or_published(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights in a file of ours or somebody else's, and the class names if it says them."""
    if path.suffix == ".safetensors":
        weights, metadata = read_tensors(path)
        return weights, tuple(json.loads(metadata.get("class_names", "[]")))
    return read_published(path)[0], ()


def read_published(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict of somebody else's checkpoint, and the rest of the file; only tensors and plain data are read."""
    if path.suffix == ".safetensors":
        return read_tensors(path)[0], {}
    _require_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is broken or holds code
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not read, since it is broken or holds more than tensors ({reason})") from error
    rest = dict(content) if isinstance(content, dict) else {}
    for key in ("state_dict", "model", "weight"):
        if isinstance(rest.get(key), Mapping):
            content = rest.pop(key)
            break
    state = {
        str(name).removeprefix("module."): value for name, value in dict(content).items() if isinstance(value, Tensor)
    }
    if not state:
        raise UserError(f"{path}: no tensors in it; expected a state dict, or one under 'state_dict'")
    return state, {key: value for key, value in rest.items() if not isinstance(value, Tensor)}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(path, lambda temporary: save_file(contiguous, temporary, dict(metadata)))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    _require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); was it copied to the end?") from error


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a temporary file beside `path`, and put it in its place once it is safely on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a checkpoint")
