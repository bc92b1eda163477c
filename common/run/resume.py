"""last.state: what exact resuming needs besides the code, as safetensors and JSON; nothing is unpickled."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import Tensor

from common.errors import UserError
from common.run.checkpoint import read_tensors, write_tensors


class End(NamedTuple):
    """What was asked of a run's length, and what it has come to; in the file a list."""

    steps: int = 0
    minutes: float = 0.0
    patience: int = 0
    timed: int = 0  # training.NOTHING_TIMED, STEPS_TIMED or ALL_TIMED
    last_step: int = 0


@dataclass
class State:
    """A run between two optimizer steps."""

    step: int
    best: float  # the best score so far
    metrics: dict[str, Any]  # of the last evaluation
    config: dict[str, Any]
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None  # the moving average's weights
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best_step: int = 0
    stale: int = 0  # evaluations since the best
    seconds: float = 0.0  # that the run has taken
    end: End = field(default_factory=End)


def save_state(path: Path, state: State) -> None:
    tensors: dict[str, Tensor] = {}
    outline = _take_tensors(vars(state), "", tensors)
    write_tensors(path, tensors, {"state": json.dumps(outline)})


def load_state(path: Path) -> State:
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --resume goes on with a run that has saved one, in the folder --run names"
        )
    tensors, metadata = read_tensors(path)
    if "state" not in metadata:
        raise UserError(f"{path}: not a run's last.state")
    try:
        state = msgspec.convert(_put_tensors(json.loads(metadata["state"]), tensors), State)
        # JSON has only text as keys; the optimizer numbers its parameters
        state.optimizer["state"] = {int(number): value for number, value in state.optimizer["state"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not whole ({error}); without it the run starts anew: leave out --resume") from error
    return state


def _take_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` with each tensor replaced by {"tensor": its name}, and the tensors put aside under these names."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {key: _take_tensors(item, f"{name}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_take_tensors(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _put_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"tensor"} and isinstance(value["tensor"], str):
            return tensors[value["tensor"]]
        return {key: _put_tensors(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_tensors(item, tensors) for item in value]
    return value
