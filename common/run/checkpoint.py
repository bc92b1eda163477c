"""Checkpoints: one safetensors file holds the weights, the configuration and the class names; nothing is unpickled.

Files are written beside their place, flushed to disk and renamed, so that a kill at any moment leaves the previous
one whole.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape as glob_escape
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from common.errors import UserError
from common.files import require_bounded, write_atomically
from common.run.model import Learner

DIGEST = "@sha256:"  # between a file and what it must be
MEGABYTES = 10_000  # of a file
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
    words = {name: json.dumps(getattr(checkpoint, name)) for name in Words.__struct_fields__}
    metadata = {"format": FORMAT, "package": checkpoint.package, **words}
    write_tensors(path, checkpoint.weights, metadata)


def load(path: Path) -> Checkpoint:
    weights, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: no maskworks checkpoint of format {FORMAT} (but {metadata.get('format', 'nothing')}); "
            "convert published checkpoints with `maskworks convert`"
        )
    try:
        words = msgspec.convert({name: json.loads(metadata[name]) for name in Words.__struct_fields__}, Words)
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: what it says beside the weights is broken ({error}); write it again") from error
    package = metadata.get("package", "nothing")
    return Checkpoint(package, words.config, words.class_names, words.category_ids, weights)


def load_weights(module: Learner | nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Strictly: every name must be there, none too many, and every shape must agree."""
    check_weights(module, weights, source)
    module.load_state_dict(dict(weights))


class Unset(TorchFunctionMode):
    """Inside, a network is made without random values, which take longer than all else and which a file's replace.

    They are 0: what draws again until a value is in its range, as PyTorch's trunc_normal_, must come to an end.
    """

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            tensor: Tensor = arguments[0] if arguments else (named or {})["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return function(*arguments, **(named or {}))


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


@contextmanager
def fitting_together(source: str) -> Iterator[None]:
    """Around the making of a network: settings that are each in their range may still make none."""
    try:
        yield
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"{source}: the settings of the network don't fit together: {reason}") from error


def odd(value: object) -> str:
    """What keeps a value from being copied into a parameter; empty for plain tensors."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.layout != torch.strided:
        return str(value.layout)
    return str(value.dtype) if value.is_complex() or value.is_quantized else ""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(contiguous, temporary, dict(metadata))
        except SafetensorError as error:  # of the system's errors it keeps the words only
            raise UserError(f"{path}: cannot be written ({error}); free some space, go on with --resume") from error

    write_atomically(path, write)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); was it copied to the end?") from error


def remove_unfinished(path: Path) -> None:
    """What processes that were killed while they wrote a file have left beside it; nobody may be writing it now."""
    for left in path.parent.glob(f".{glob_escape(path.name)}.*"):
        left.unlink(missing_ok=True)


def require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a checkpoint")
    try:
        require_bounded(path, MEGABYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a checkpoint") from error
