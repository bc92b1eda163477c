"""Compiled programs (.pt2): what they say is read as data, and they run only where they are trusted."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from maskworks import compiled, exported, exporting
from maskworks.prediction.command import Predict, Work


class Doubled(nn.Module):
    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (2 * image,)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("m/data/model.so", "what nobody asked to run")
        said = {"package": "solov2", "config": "{}", "outputs": "[]"}
        archive.writestr("m/extra/maskworks.json", json.dumps(said))
    return tmp_path / "m.pt2"


def test_a_compiled_program_runs_only_where_it_is_trusted(file: Path, monkeypatch: Any) -> None:
    opened: list[str] = []
    monkeypatch.setattr(torch._inductor, "aoti_load_package", opened.append)
    assert exported.words_in(file)["package"] == "solov2"
    for ask in (lambda: exported.load(file), lambda: exported.opened(Predict([], str(file)))):
        with pytest.raises(UserError, match=r"m\.pt2: a compiled program, .* trust its maker: --trust"):
            ask()
    assert opened == []
    compiled.Compiled(file)
    assert opened == [str(file)]


def test_trust_in_what_runs_nothing_and_files_that_say_nothing_are_lines(file: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"--trust: w\.onnx is no \.pt2 file"):
        Work(Predict([str(tmp_path / "a.png")], "w.onnx", str(tmp_path / "out"), trust=True), {})
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match=r"no whole \.pt2 file"):
        exported.words_in(file)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"out": "m.onnx", "format": "pt2"}, r"a file of that format ends in \.pt2"),
        ({"out": "m.pt2"}, r"a file of that format ends in \.onnx"),
        ({"out": "m.bin", "format": "openvino"}, r"a file of that format ends in \.xml"),
        ({"format": "pt2", "precision": "fp16"}, "compute in fp32"),
        ({"precision": "int8"}, "there is int8 for --format openvino only"),
        ({"precision": "int8", "format": "openvino"}, "needs pictures that show the ranges of values: --calibration"),
        ({"calibration": "photographs"}, "are for --precision int8; leave them out"),
    ],
)
def test_formats_that_do_not_fit_are_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        exporting.write(Doubled(), {}, exporting.Export("w", **options), (), {"package": "yolact"})


@pytest.mark.slow  # a C++ compiler's half minute
def test_a_compiled_file_answers_as_its_module_does(tmp_path: Path) -> None:
    inputs = {"image": torch.arange(6.0).reshape(2, 3)}
    options = exporting.Export("w", str(tmp_path / "m.pt2"), "pt2")
    program = exporting.write(Doubled().eval(), inputs, options, ("doubled",), {"package": "p"})
    (answer,) = program.run(None, {"image": inputs["image"].numpy()})
    assert np.array_equal(answer, 2 * inputs["image"].numpy())
    said = compiled.words_in(tmp_path / "m.pt2")
    assert (said["package"], json.loads(said["outputs"]), program.outputs) == ("p", ["doubled"], ["doubled"])
