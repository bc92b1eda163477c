"""Every committed case, and every SOLOv2 case in the folder that MASKWORKS_PARITY names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.parity.case import read_case
from tests.parity.runner import find_cases, run_case

COMMITTED = find_cases(
    [str(folder) for folder in sorted((Path(__file__).parent / "cases").iterdir()) if folder.is_dir()]
)
GIVEN = find_cases([str(Path(os.environ["MASKWORKS_PARITY"]) / "solov2")]) if "MASKWORKS_PARITY" in os.environ else []


@pytest.mark.parametrize("folder", COMMITTED + GIVEN, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_the_case_is_reproduced(folder: Path) -> None:
    lines, _ = run_case(read_case(folder))
    assert lines
    assert not [str(line) for line in lines if not line.passed]
