"""What network cases share: the made-up checkpoint, gradients, and how far float32 leaves those open."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.parity import rules
from tests.parity.case import SAMPLE, Array, Case, sample
from tests.parity.runner import other_rounding

Gradients = dict[str, Array]  # by published parameter name
LARGEST_SPREAD = 5e-3
RECORDED = "gradient_spread"  # in the spec of a frozen case; measuring it takes three training steps
MEASURED: dict[Path, dict[str, float]] = {}  # by case


def array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()


def packed(masks: Array) -> Array:
    """Masks [n, H, W], perhaps none, in bits: a row each."""
    return np.packbits(masks.reshape(len(masks), math.prod(masks.shape[1:])), axis=1)


def published_checkpoint(case: Case) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in case.checkpoint().items()}


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def learns_what_is_compared(case: Case, model: nn.Module, names: Mapping[str, str]) -> None:
    """Freezes parameters whose gradients a case with gradients doesn't have: half of a backward pass is theirs."""
    compared = {output.removesuffix(SAMPLE).rpartition("/")[2] for output in case.outputs}.intersection(names)
    parameters = dict(model.named_parameters())
    for published, name in names.items():
        if compared and name in parameters and published not in compared:
            parameters[name].requires_grad_(False)


@contextmanager
def seen_in(parts: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Any, Any]]]:
    """What each part was given last and gave, of what runs inside, so that nothing is computed twice."""
    seen: dict[str, tuple[Any, Any]] = {}
    hooks = [
        part.register_forward_hook(lambda _, given, gave, name=name: seen.update({name: (given, gave)}))
        for name, part in parts.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def gradients(model: nn.Module, names: Mapping[str, str]) -> Gradients:
    """By published name (`names`: published name -> ours); frozen parameters have none."""
    parameters = dict(model.named_parameters())
    pairs = [(published, parameters[name].grad) for published, name in names.items() if name in parameters]
    return {published: array(gradient) for published, gradient in pairs if gradient is not None}


def gradient_outputs(found: Gradients, limit: int = 2000) -> dict[str, Array]:
    """The norm of each gradient, and a sample of it under both names that cases have for that."""
    computed: dict[str, Array] = {}
    for published, gradient in found.items():
        computed[f"grad/{published}"] = np.asarray(np.linalg.norm(gradient.astype(np.float64)))
        names = f"grad/{published}{SAMPLE}", f"grad_sample/{published}"
        computed |= dict.fromkeys(names, sample(gradient, limit))
    return computed


def part_of(name: str) -> str:
    """backbone, neck ..., from a published name or an output named after it."""
    return name.rpartition("/")[2].partition(".")[0]


def rounding_of_gradients(
    case: Case,
    name: str,
    gradients_in: Callable[[Case, torch.dtype], Gradients],
    part_of: Callable[[str], str] = part_of,
) -> float:
    """How far float32 leaves the gradients of that part of the network open to which the parameter `name` belongs.

    Twice the largest distance of float32 gradients, computed in two ways, from those in float64. A ReLU whose input
    is within rounding of 0 passes its gradient or doesn't, so gradients of deep layers jump by far more than
    float32's precision, and the original's did the same on its machine.
    """
    spread = case.spec.get(RECORDED) or MEASURED.get(case.folder)
    if spread is None:
        spread = MEASURED[case.folder] = gradient_spread(partial(gradients_in, case), part_of)
    return min(2 * spread.get(part_of(name), 0.0), LARGEST_SPREAD)


def gradient_spread(
    gradients_in: Callable[[torch.dtype], Gradients],
    part_of: Callable[[str], str],
    otherwise: Callable[[], Gradients] | None = None,
) -> dict[str, float]:
    """How far float32 is from float64 at most: in two ways to compute it, and in a third if there is one."""
    exact = gradients_in(torch.float64)
    single = [gradients_in(torch.float32), *([otherwise()] if otherwise else [])]
    with other_rounding():
        single.append(gradients_in(torch.float32))
    spread: dict[str, float] = {}
    for name, values in exact.items():
        largest = max(rules.relative_error(other[name], values) for other in single)
        spread[part_of(name)] = max(spread.get(part_of(name), 0.0), largest)
    return spread
