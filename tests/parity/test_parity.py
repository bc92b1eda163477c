"""Every committed case, and every case in the folder that MASKWORKS_PARITY names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity.case import read_case
from tests.parity.runner import find_cases, run_case


def cases_below(folder: Path) -> list[Path]:
    """The cases in the folders of all systems."""
    return find_cases([str(system) for system in sorted(folder.iterdir()) if system.is_dir()])


COMMITTED = cases_below(Path(__file__).parent / "cases")
GIVEN = cases_below(Path(os.environ["MASKWORKS_PARITY"])) if "MASKWORKS_PARITY" in os.environ else []


def name_of(folder: Path) -> str:
    given = "" if folder in COMMITTED else "given-"  # cases of both kinds have the same names
    return f"{given}{folder.parent.name}-{folder.name}"


@pytest.mark.parametrize("folder", COMMITTED + GIVEN, ids=name_of)
def test_the_case_is_reproduced(folder: Path) -> None:
    lines, _ = run_case(read_case(folder))
    assert lines
    assert not [str(line) for line in lines if not line.passed]
