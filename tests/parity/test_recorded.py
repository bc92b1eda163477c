"""What was recorded of a given case's rounding stands in for measuring it, for that case and no further."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.parity import recorded as records
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.recorded import record, recorded
from tests.parity.runner import compare_one
from tests.parity.test_runner import Doubler, doubler_case


class Measuring(Doubler):
    """Counts how often rounding is measured."""

    measured = 0

    def rule(self, case: Case, name: str) -> rules.Rule | None:
        return rules.relative(1e-5, self.measure)

    def measure(self) -> float:
        self.measured += 1
        return 4e-3


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setattr(records, "FILE", tmp_path / "rounding.json")
    (tmp_path / "golden.npz").write_bytes(b"arrays")
    return replace(doubler_case(), folder=tmp_path)


def line_of(case: Case, system: Measuring, factor: float) -> tuple[bool, float, int]:
    expected: Array = np.ones(8, np.float32)
    line = compare_one(case, system, "doubled@sample", expected * np.float32(factor), expected)  # type: ignore[arg-type]
    return line.passed, line.tolerance, system.measured


def test_what_is_within_the_recorded_rounding_is_not_measured_and_what_is_beyond_it_is(case: Case) -> None:
    record(case, {"doubled@sample": 2e-3})
    system = Measuring()
    assert line_of(case, system, 1.001) == (True, 2e-3, 0)
    assert line_of(case, system, 1.003) == (True, 4e-3, 1)
    assert line_of(case, system, 1.005) == (False, 4e-3, 2)


def test_a_case_whose_arrays_changed_is_measured_anew(case: Case, tmp_path: Path) -> None:
    record(case, {"doubled": 2e-3})
    changed = tmp_path / "changed"
    changed.mkdir()
    (changed / "golden.npz").write_bytes(b"other arrays")
    assert (recorded(case, "doubled"), recorded(replace(case, folder=changed), "doubled")) == (2e-3, 0)
    assert recorded(doubler_case(), "doubled") == 0  # made in memory
