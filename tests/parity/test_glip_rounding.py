"""What float32 leaves open of GLIP's boxes is measured where they miss their tolerance, and nothing else is let off."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity import glip
from tests.parity.case import Array, Case
from tests.parity.glip import rounding as glip_rounding
from tests.parity.runner import compare_one

EXACT = np.array([[10.0, 10, 500, 300], [0, 0, 90, 40]])


def case_of(folder: Path) -> Case:
    spec = {"system": "glip", "state_dict": {"weight": {"shape": [1]}}, "tolerance": {"boxes_px": 0.02}}
    return Case(folder, spec, {"in/image": np.zeros((4, 4, 3), np.uint8), "out/det/boxes": EXACT})


def line_of(case: Case, computed: Array) -> tuple[bool, float]:
    line = compare_one(case, glip, "det/boxes", computed, EXACT)  # type: ignore[arg-type]
    return line.passed, line.tolerance


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """By how much each of three orders of sums in float32 moves the case's first corner."""
    moved = [0.001, 0.03, 0.004]

    def found_in(case: Case, dtype: torch.dtype, layout: object = None) -> glip_rounding.Found:
        boxes = EXACT.copy()
        boxes[0, 0] += 0 if dtype == torch.float64 else next(left)
        return {"det/boxes": boxes}

    left = iter(moved)
    monkeypatch.setattr(glip_rounding, "found_in", found_in)
    return moved


def test_boxes_are_held_to_twice_what_float32_moves_them(orders: list[float], tmp_path: Path) -> None:
    case = case_of(tmp_path)
    assert line_of(case, EXACT + 0.05) == (True, pytest.approx(2 * max(orders)))
    assert line_of(case, EXACT + 0.07) == (False, pytest.approx(2 * max(orders)))


def test_boxes_within_their_tolerance_are_not_measured(orders: list[float], tmp_path: Path) -> None:
    orders.clear()  # asking for one would fail
    assert line_of(case_of(tmp_path), EXACT + 0.015) == (True, 0.02)


def test_quiet_cases_and_huge_errors_get_nothing(orders: list[float], tmp_path: Path) -> None:
    orders[:] = [0.001, 0.002, 0.003]
    assert line_of(case_of(tmp_path / "quiet"), EXACT + 0.05) == (False, 0.02)
    glip_rounding.DISTANCES[str((tmp_path / "loud").resolve())] = {"det/boxes": 40.0}
    assert line_of(case_of(tmp_path / "loud"), EXACT + 0.6) == (False, glip_rounding.LARGEST_ROUNDING)


def test_an_order_that_finds_other_boxes_says_nothing() -> None:
    single = [{"boxes": EXACT + 0.01}, {"boxes": EXACT[:1] + 9}]
    assert glip_rounding.distances({"boxes": EXACT}, single) == {"boxes": pytest.approx(0.01)}
