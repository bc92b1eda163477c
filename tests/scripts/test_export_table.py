"""The table of exported files: it holds what an export command says of the runtime that is tried, and both times."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scripts import export_table
from scripts.export_table import EXPORTING, by_onnxruntime, made_up, measured

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime for these tests")


class Twice(nn.Module):
    def __init__(self, model: object) -> None:
        super().__init__()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * image


def test_a_row_is_what_the_command_says_of_the_runtime(monkeypatch: Any) -> None:
    seen: list[Any] = []

    def command() -> None:
        session = onnxruntime.InferenceSession(sys.argv[4], providers=[])
        seen.append(session.run(None, {"image": np.ones(2, np.float32)}))
        print("2 x 1: 3 found, 3 of them in the file's answer too, scores, boxes and masks within 1.5e-06; 1 ties")
        print("1 x 2: 4 found, 4 of them in the file's answer too, scores, boxes and masks within 2.5e-07; 0 ties")

    model = SimpleNamespace(config=SimpleNamespace(variant="small"))
    monkeypatch.setitem(sys.modules, "two", SimpleNamespace(load=lambda file, device: model))
    monkeypatch.setitem(sys.modules, "two.export", SimpleNamespace(main=command, Graph=Twice))
    row = measured("two", "w", "out.onnx", "by hand", lambda file, _: lambda inputs: [file, 2 * inputs["image"]])
    assert row[:4] == ["`two`, `small`", "by hand", "7 found", "1.5e-06"]
    assert [float(seconds) >= 0 for seconds in row[4:]] == [True, True]
    assert (seen[0][0], seen[0][1].tolist()) == ("out.onnx", [2.0, 2.0])
    assert onnxruntime.InferenceSession.__name__ == "InferenceSession"  # as it was


@pytest.mark.parametrize("name", EXPORTING)
def test_a_made_up_checkpoint_is_of_its_package(name: str, tmp_path: Path) -> None:
    assert export_table.package_of(made_up(name, tmp_path))[0] == name


@pytest.mark.slow  # exports
def test_an_export_is_checked_and_timed(tmp_path: Path) -> None:
    row = measured("u2net", made_up("u2net", tmp_path), str(tmp_path / "m.onnx"), "ONNX", by_onnxruntime)
    assert row[:3] == ["`u2net`, `shapes`", "ONNX", "a map"]
    assert float(row[3]) < 1e-3 and min(map(float, row[4:])) > 0
