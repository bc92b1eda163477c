"""The one command: it runs the packages' own programs, and reads from a checkpoint whose."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import maskworks
import solov2
from common.errors import UserError
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks import __main__ as command
from maskworks.packages import NETWORKS
from maskworks.published.coco_classes import COCO_CLASSES
from refinemask_psg.u2net import U2Net
from solov2.config import VARIANTS
from tests.published.test_weights import as_published

ROOT = Path(__file__).resolve().parents[2]


def say(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run the command; its exit status."""
    monkeypatch.setattr(sys, "argv", ["maskworks", *map(str, words)])
    try:
        command.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What would be run, and with which words."""
    seen: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(runpy, "run_module", lambda name, **_: seen.append((name, sys.argv[1:])))
    monkeypatch.setattr(runpy, "run_path", lambda path, **_: seen.append((Path(path).name, sys.argv[1:])))
    return seen


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current one is new."""
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def checkpoints(folder: Path) -> Path:
    """A checkpoint of ours, and somebody's file of the same weights."""
    torch.manual_seed(0)
    model = solov2.SOLOv2(VARIANTS["light_r18_448"], COCO_CLASSES)
    content = Checkpoint("solov2", to_dict(model.config), model.class_names, model.category_ids, model.state_dict())
    save(folder / "ours.safetensors", content)
    (folder / "theirs.pth").write_bytes(as_published(model))
    return folder


@pytest.mark.parametrize(
    ("line", "program", "rest"),
    [
        ("train solov2 light_r18_448 --epochs 1", "solov2.train", "light_r18_448 --epochs 1"),
        ("eval yolact --limit 3", "yolact.eval", "--limit 3"),
        ("train u2net", "refinemask_psg.u2net.train", ""),
        ("convert a.pth --dry-run", "mmdet2pytorch.py", "a.pth --dry-run"),
        ("check my/train.json", "check_dataset.py", "my/train.json"),
        ("demo", "demo.py", ""),
        ("weights --download solov2:r50_3x", "maskworks.published.weights", "--download solov2:r50_3x"),
        ("report runs/a", "maskworks.report", "runs/a"),
    ],
)
def test_each_verb_is_a_program_of_today(
    line: str, program: str, rest: str, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert say(monkeypatch, *line.split()) == 0
    assert started == [(program, rest.split())]
    name = program.replace(".", "/")
    assert any((ROOT / place).is_file() for place in (f"{name}.py", f"{name}/__main__.py", f"scripts/{program}"))


def test_every_package_has_the_programs() -> None:
    for package in (*NETWORKS, *command.MODULES):
        path = command.MODULES.get(package, package).replace(".", "/")
        verbs = {verb for verb in command.OF_A_PACKAGE if (ROOT / path / f"{verb}.py").is_file()}
        assert verbs >= {"train", "eval", "predict"}, package


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("fly", "error: maskworks fly: there are train, eval"),
        ("train", "name the package first, of solov2, yolact"),
        ("predict photographs", "name a checkpoint with --weights, or the package first, as predict solov2"),
        ("predict photographs --weights none.pth", "none.pth: no such file"),
        ("export glip", "maskworks export: glip has no export.py"),
        ("eval --weights solov2:r50_3", "did you mean solov2:r50_3x?"),
    ],
)
def test_a_mistake_is_a_line(line: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert say(monkeypatch, *line.split()) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_help_and_version_need_no_checkpoint(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert say(monkeypatch, "--version") == say(monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{maskworks.__version__}\nusage: maskworks VERB")
    assert all(f"\n  {verb} " in out for verb in (*command.OF_A_PACKAGE, *command.PROGRAMS, *command.SCRIPTS))


def test_the_package_is_read_from_the_checkpoint_and_somebodys_file_converted_once(
    checkpoints: Path, started: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    lines = "predict a --weights ours.safetensors", "export --weights=theirs.pth --out m", "eval --weights theirs.pth"
    for line in lines:
        assert say(monkeypatch, *line.split()) == 0
    assert capsys.readouterr().err.count("theirs.pth: a published checkpoint of solov2: converting it to ") == 1
    (made,) = (checkpoints / "cache").rglob("theirs-*.safetensors")
    assert started == [
        ("solov2.predict", ["a", "--weights", "ours.safetensors"]),
        ("solov2.export", ["--weights", str(made), "--out", "m"]),
        ("solov2.eval", ["--weights", str(made)]),
    ]
    ours, theirs = solov2.load("ours.safetensors"), solov2.load("theirs.pth")  # as python -m solov2.predict does
    assert "converting" not in capsys.readouterr().err
    assert to_dict(ours.config)["model"] == to_dict(theirs.config)["model"]
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_u2nets_published_file_is_recognised(folder: Path, started: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(U2Net(small=True).state_dict(), "u2netp.pth")
    assert say(monkeypatch, "predict", "photographs", "--weights", "u2netp.pth") == 0
    assert started == [("refinemask_psg.u2net.predict", ["photographs", "--weights", "u2netp.pth"])]


def test_load_finds_the_package_and_is_as_fast_as_the_command(checkpoints: Path) -> None:
    model = maskworks.load("ours.safetensors", precision="bf16")
    assert isinstance(model, solov2.SOLOv2)
    assert model.precision == "bf16"
    assert not model.training
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())  # folded
    weight = model.fpn.inner_blocks[0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not hasattr(solov2.load("ours.safetensors", device="cpu"), "precision")
    with pytest.raises(UserError, match="--device meta: not to be had here"):
        solov2.load("ours.safetensors", device="meta")
    torch.save(U2Net(small=True).state_dict(), "u2netp.pth")
    assert isinstance(maskworks.load("u2netp.pth"), U2Net)
    with pytest.raises(UserError, match="u2net computes in fp32 only"):
        maskworks.load("u2netp.pth", precision="bf16")
