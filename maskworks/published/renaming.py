"""What every package's convert.py shares: renaming a published state dict, and what comes of it."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from common.errors import UserError
from maskworks.published.origin import Decision

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")
Rules = list[tuple[str, str]]  # pattern and replacement, applied one after the other


@dataclass
class Converted(Generic[C]):
    """A published checkpoint, ready for the network's load_state_dict."""

    source: str  # whose names the file has
    config: C
    weights: dict[str, Tensor]
    names: dict[str, str]  # published name -> name here
    decisions: list[Decision] = field(default_factory=list)  # what the tensors don't tell, and who says it


def rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def renamed_by(
    recognise: Callable[[Mapping[str, Tensor]], str | None], convert: Callable[[Mapping[str, Tensor]], Converted[C]]
) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor] | None]:
    """A state dict -> its weights under our names; None to one that a package doesn't recognise."""
    return lambda state: convert(state).weights if recognise(state) else None


def required(source: str | None, model: str, marks: Iterable[str]) -> str:
    """Whose names a file has; `marks` are those by which a file of this model would have been recognised."""
    if source is None:
        raise UserError(f"this is not a {model} checkpoint that is known here: none of {', '.join(marks)} is in it")
    return source


def refuse_other_layers(network: nn.Module, weights: Iterable[str], family: str, known: str, file: str) -> None:
    """Stop where a file of a known family has layers that its network here has not; `known` says which have none."""
    ours = network.state_dict()
    if others := [name for name in weights if name not in ours]:
        named = others[0] if len(others) == 1 else f"{others[0]} and {len(others) - 1} more"
        raise UserError(f"{file}: by its names {family}, with layers that are not known here, {named}; known: {known}")


def missing_counters(names: Iterable[str]) -> dict[str, Tensor]:
    """Zeros for the batches that batch norms count, which files before PyTorch 0.4.1 and Detectron2's don't have."""
    known = set(names)
    norms = (name.removesuffix("running_mean") for name in known if name.endswith("running_mean"))
    return {name: torch.tensor(0) for name in sorted({f"{norm}num_batches_tracked" for norm in norms} - known)}


def resnet_body(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A torchvision classifier's weights without its last layer, as a backbone's; None if it is something else."""
    if "layer1.0.conv1.weight" not in state:
        return None
    return {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}


def count(names: Iterable[str], pattern: str) -> int:
    """How many different first groups a pattern finds among names: the blocks of a stage, the layers of a tower."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})


def whole(function: Callable[P, R]) -> Callable[P, R]:
    """For the functions that look into a published state dict: any of its tensors may be missing or misshapen."""

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        with refusing_fragments():
            return function(*args, **kwargs)

    return checked


@contextmanager
def refusing_fragments() -> Iterator[None]:
    """Where a network is derived from weights, an error means that they are not those of a whole network."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"the checkpoint has no {error.args[0]}; was it changed, or is it a part of one?") from error
    except (ArithmeticError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"the checkpoint's weights are of no network known here ({reason}); was it changed?") from error
