"""The scene graph cases: relation heads, data preparation, submissions and scores."""

from __future__ import annotations

from types import ModuleType

from common.errors import UserError
from tests.parity.case import Array, Case
from tests.parity.psg import files as psg_files
from tests.parity.psg import head as psg_head
from tests.parity.psg import scores as psg_scores
from tests.parity.rules import Rule

INPUTS = ()


def compute(case: Case, device: str) -> dict[str, Array]:
    computed: dict[str, Array] = part_of(case).compute(case, device)
    return computed


def rule(case: Case, name: str) -> Rule | None:
    found: Rule | None = part_of(case).rule(case, name)
    return found


def part_of(case: Case) -> ModuleType:
    """Which kind of case it is, by its inputs."""
    inputs = case.folder / "inputs"
    if case.spec["state_dict"]:
        return psg_head
    if (inputs / "relation.json").exists():
        return psg_scores
    if (inputs / "psg_train_val.json").exists():
        return psg_files
    raise UserError(f"{case.folder}: none of the kinds of case that are known")
