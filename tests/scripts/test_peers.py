"""The benchmark beside other programs: no speed of another result is printed."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.ops.masks import encode
from scripts.benchmarks import ROOT, programs


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    yield import_module("peers")
    sys.modules.pop("peers")


def found(label: int, score: float, columns: slice) -> dict[str, Any]:
    mask = np.zeros((1, 10, 200), bool)
    mask[0, :, columns] = True
    return {"label": label, "score": score, "rle": encode(mask)[0]}


def test_detections_agree_in_class_score_and_pixels_each_with_one(peers: Any) -> None:
    one = found(1, 0.5, slice(0, 100))
    assert peers.agreement([one], [found(1, 0.5004, slice(0, 101))]) == 1
    assert peers.agreement([one], [found(2, 0.5, slice(0, 100))]) == 0
    assert peers.agreement([one], [found(1, 0.52, slice(0, 100))]) == 0
    assert peers.agreement([one], [found(1, 0.5, slice(0, 110))]) == 0
    assert peers.agreement([one, one], [one]) == 1
    assert peers.agreement([], [one]) == 0


def test_what_finds_something_else_is_not_timed(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"_our_side.py": [found(1, 0.5, slice(0, 100))], "_peer_side.py": [found(1, 0.9, slice(0, 100))]}

    class Side:
        def __init__(self, _: str, program: str, *__: str):
            self.answer = answers[program]

        def ask(self, _: Any) -> Any:
            return self.answer

        def end(self) -> float:
            return 0.0

    monkeypatch.setattr(peers, "Side", Side)
    line, stages = peers.measure("yolact base", "", Path(), 1, 1)
    assert "0/1  they differ: not measured" in line
    assert stages == ""


def test_it_is_the_first_of_the_benchmarks() -> None:
    assert programs()[0].stem == "peers"
