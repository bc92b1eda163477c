"""The commands with which a training ends are taken as they stand, and do what they say: in every package."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from maskworks.published.names import local_file
from tests.running import call
from tests.small import SMALL, flags, package_of

QUICK = (
    "solov2",
)  # as far as PyTorch's exporter, which takes 20 s; tests/maskworks/test_exported.py goes on from there
BRIEF = "--steps 1 --batch-size 2 --workers 0 --device cpu --no-report"
DONE = {"eval": "metrics.json", "predict": "predictions", "export": "model.onnx"}


class ReachedError(Exception):
    """In place of a file."""


def reached(*_: object, **__: object) -> None:
    raise ReachedError


@pytest.mark.parametrize(
    ("name", "exports"),
    [
        *(pytest.param(name, False, id=name) for name in QUICK),
        *(pytest.param(name, True, id=f"{name} to the end", marks=pytest.mark.slow) for name in SMALL),
    ],
)
def test_a_training_ends_with_scores_of_the_classes_and_commands_that_run(
    name: str, exports: bool, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("my runs") / "first"
    line = [*flags(name, tmp_path), *shlex.split(BRIEF), "--run", str(run)]
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", sys.__spec__)  # as `python -m` has it
    call(f"{package_of(name)}.train", *line)
    said = capsys.readouterr().out
    assert " class " in said or name == "u2net"  # what is salient is of no class
    named = re.findall(r"^weights: (.*)$", said, re.MULTILINE)[0]  # with its digest, which is looked at
    assert local_file(named).samefile(run / "best.safetensors")
    assert len(named.partition("@sha256:")[2]) == 64
    commands = [shlex.split(line) for line in re.findall(r"^  (python -m .*)$", said, re.MULTILINE)]
    expected = ["eval", "predict", *(["export"] if name not in ("glip", "psg") else [])]
    assert [words[2] for words in commands] == [f"{package_of(name)}.{command}" for command in expected]
    for _, _, module, *words in commands:
        command = module.rpartition(".")[2]
        if command == "export":
            pytest.importorskip("onnxruntime")
        if command == "export" and not exports:
            monkeypatch.setattr(torch.export, "export", reached)
            with pytest.raises(ReachedError):
                call(module, *words)
            continue
        call(module, *words)
        said = capsys.readouterr().out
        assert DONE[command] in said or any((run / DONE[command]).glob("*.png")), said
    assert len(list((run / "predictions").rglob("*.*"))) >= 4  # a file of each picture at least
