"""The table of exported files: it holds what an export command says of each format, and both times."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import UserError
from maskworks import exporting
from scripts import export_table
from scripts.export_table import EXPORTING, made_up, measured


class Twice(nn.Module):
    model = SimpleNamespace(config=SimpleNamespace(variant="small"))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return 2 * image


def test_a_row_is_what_the_command_says_of_the_file(monkeypatch: Any) -> None:
    seen: list[Any] = []
    session = SimpleNamespace(run=lambda _, inputs: seen.append(inputs["image"].tolist()))

    def command() -> None:
        if "--fail" in sys.argv:
            raise UserError("its text | is an input")
        assert exporting.write(Twice(), {"image": torch.ones(2)}, "out.onnx") is session
        print("2 x 1: 3 found, 3 of them in the file's answer too, scores, boxes and masks within 1.5e-06; 1 ties")
        print("1 x 2: 4 found, 4 of them in the file's answer too, scores, boxes and masks within 2.5e-07; 0 ties")

    monkeypatch.setattr(exporting, "write", lambda graph, inputs, out: session)
    monkeypatch.setitem(sys.modules, "two.export", SimpleNamespace(main=command))
    row = measured("two", "by hand", ["--out", "out.onnx"])
    assert row[:4] == ["`two`, `small`", "by hand", "7 found", "1.5e-06"]
    assert [float(seconds) >= 0 for seconds in row[4:]] == [True, True]
    assert seen[0] == [1.0, 1.0]
    assert measured("two", "by hand", ["--fail"]) == ["`two`", "by hand", "none: its text / is an input", "", "", ""]


@pytest.mark.parametrize("name", EXPORTING)
def test_a_made_up_checkpoint_is_of_its_package(name: str, tmp_path: Path) -> None:
    assert export_table.package_of(made_up(name, tmp_path))[0] == name


@pytest.mark.slow  # exports
def test_an_export_is_checked_and_timed(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="pip install onnxruntime for this test")
    row = measured("u2net", "ONNX", ["--weights", made_up("u2net", tmp_path), "--out", str(tmp_path / "m.onnx")])
    assert row[:3] == ["`u2net`, `shapes`", "ONNX", "a map"]
    assert float(row[3]) < 1e-3 and min(map(float, row[4:])) > 0
