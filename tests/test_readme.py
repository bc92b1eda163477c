"""Every command of every README and of docs/: its program gets the very line, and its own parser has to take it.

- A command is a line of a bash block, or a piece of code within the text that starts with one of PROGRAMS. One that no
  rule covers fails. `...` stands for the reader's own file or flags.
- Programs are stopped where their parser has read the line: published weights, GPUs and days are not to be had here.
  Weights that a line names are made up first, so that eval.py, which reads them before its flags, gets that far too.
- That the lines then run to their end is shown in tests/test_readme_runs.py; Python blocks run here, as they stand.
"""

import argparse
import functools
import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import tyro
from torch.distributed.run import parse_args

from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.__main__ import OF_A_PACKAGE, SCRIPTS
from maskworks.__main__ import PROGRAMS as VERBS
from maskworks.packages import NETWORKS
from maskworks.published.names import entry_of, place_of

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))  # datasets/README.md has downloads only
DOCS = sorted(ROOT.glob("docs/**/*.md"))
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *(package / "README.md" for package in PACKAGES), *DOCS]
PROGRAMS = ("python", "maskworks", "torchrun", "pip", "make", "sbatch", "cd")
OTHERS = ("duckdb",)  # other people's, on files of ours: tests/maskworks/test_many.py
NAME = re.compile(rf"\b(?:{'|'.join(NETWORKS)}):\w+")  # of published weights
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
CLASSES = {"pose2seg": ("person",)}


@dataclass(frozen=True)
class Command:
    page: Path
    words: tuple[str, ...]
    folder: Path  # where the reader is
    mention: bool  # within a sentence, where a program alone is only named

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {' '.join(self.words)}"


def commands_of(page: Path) -> Iterator[Command]:
    text = page.read_text(encoding="utf-8")
    home = page.parent if page.parent.name in NETWORKS else ROOT
    for language, block in FENCE.findall(text):
        assert language in ("bash", "python"), f"{page}: a block of {language}"
        if language == "bash":
            yield from commands_of_block(page, block, home)
    for span in SPAN.findall(FENCE.sub("", text)):
        words = tuple(shlex.split(span)) if span.startswith(PROGRAMS) and " " in span else ()
        if words and words[0] in PROGRAMS:
            yield Command(page, words, home, mention=True)


def commands_of_block(page: Path, block: str, home: Path) -> Iterator[Command]:
    """A block that changes the folder starts at the top, as the reader's does."""
    folder = ROOT if re.search(r"^cd ", block, re.MULTILINE) else home
    for line in block.replace("\\\n", " ").splitlines():
        words = tuple(shlex.split(line, comments=True))
        if words[:1] == ("cd",):
            folder = ROOT / words[1]
            assert folder.is_dir(), f"{page}: {line}"
        elif words and words[0] not in OTHERS:
            yield Command(page, words, folder, mention=False)


COMMANDS = [command for page in PAGES for command in commands_of(page)]


# --- what is done with a command


def under_name(name: str) -> tuple[Path, str]:
    """Where the converted file of a published name is expected, and its variant."""
    package, _, short = name.partition(":")
    entry = entry_of(name)
    assert entry, f"{name} is not in a weights.toml"
    return place_of(package, short, entry).with_name(f"{short}.safetensors"), entry.variant


class Parsed(BaseException):
    """Raised in a program as soon as its parser took the line."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A small made-up checkpoint of each package."""
    made: dict[str, Path] = {}

    def make(package: str) -> Path:
        if package not in made:
            made[package] = tmp_path_factory.mktemp("weights") / f"{package}.safetensors"
            module = import_module(package)
            config = module.VARIANTS["shapes"]
            names = CLASSES.get(package, ("red circle", "square"))
            if package == "upsnet":
                config.model.things = 1
            torch.manual_seed(0)
            model = getattr(module, NETWORKS[package])(config, names)
            save(made[package], Checkpoint(package, to_dict(config), names, (1, 2)[: len(names)], model.state_dict()))
        return made[package]

    return make


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, list[str]], None]:
    """Run a program until its parser has taken the line."""
    real, real_argparse = tyro.cli, argparse.ArgumentParser.parse_args

    def stop(program: Any, *args: Any, **kwargs: Any) -> None:
        if inspect.isfunction(program):  # tyro would call it
            program = functools.wraps(program)(lambda *args, **kwargs: None)
        raise Parsed(real(program, *args, **kwargs))

    def stop_argparse(*args: Any, **kwargs: Any) -> None:
        raise Parsed(real_argparse(*args, **kwargs))

    def parse_line(program: Path, arguments: list[str]) -> None:
        assert program.is_file(), program
        with monkeypatch.context() as patch:
            patch.setattr(tyro, "cli", stop)
            patch.setattr(argparse.ArgumentParser, "parse_args", stop_argparse)
            patch.setattr(sys, "argv", [program.name, *arguments])
            try:
                runpy.run_path(str(program), run_name="__main__")
            except Parsed:
                return
            except SystemExit as end:
                assert end.code == 0, f"{program.name} ends with {end.code}"
                assert "--help" in arguments
                return
        raise AssertionError(f"{program} ran to its end and read no arguments")

    return parse_line


def program_of(words: list[str], folder: Path) -> tuple[Path, list[str]]:
    """The file that `python WORDS` runs, and its arguments."""
    if words[0] == "-m":
        place = ROOT.joinpath(*words[1].split("."))
        return (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")), words[2:]
    path = folder / words[0]
    return (path if path.exists() else ROOT / words[0]).resolve(), words[1:]


def filled_in(arguments: list[str]) -> list[str]:
    """`...` behind a flag is a file of the reader's, and elsewhere more flags of the reader's."""
    words = []
    for index, word in enumerate(arguments):
        if word != "...":
            words.append(word)
        elif arguments[index - 1].startswith("--"):
            words.append("own.safetensors")
    return words


def check_python(words: list[str], folder: Path, mention: bool, parse: Any, weights: Any) -> None:
    program, arguments = program_of(words, folder)
    if program.parent == ROOT / "scripts" / "bench" or (mention and not arguments):
        assert not arguments
        compile(program.read_text(encoding="utf-8"), str(program), "exec")  # named, or measures for minutes
        return
    arguments = filled_in(arguments)
    package = program.parent.name
    if package in NETWORKS:
        named = [arguments[at + 1] for at, word in enumerate(arguments[:-1]) if word == "--weights"]
        for name in [*named, f"runs/{package}/shapes/best.safetensors"]:
            if NAME.fullmatch(name):
                put(weights(package), under_name(name)[0])
            elif name.endswith(".safetensors") and not Path(name).exists():
                put(weights(package), Path(name))
    parse(program, arguments)


def check_maskworks(words: list[str], mention: bool, parse: Any, weights: Any) -> None:
    """The verb is one of ours, and its program, which may have to look at a checkpoint to be found, takes the line."""
    if mention and len(words) == 1:
        assert words[0] in (*OF_A_PACKAGE, *VERBS, *SCRIPTS, "--help")
        return
    for name in words:
        if NAME.fullmatch(name):
            put(weights(name.partition(":")[0]), under_name(name)[0])
        elif name.endswith(".safetensors"):
            put(weights("solov2"), Path(name))
    parse(ROOT / "maskworks/__main__.py", words)


def put(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(file)


def check_torchrun(words: list[str], folder: Path, parse: Any, weights: Any) -> None:
    assert words != ["..."]
    options = parse_args(filled_in(words))
    line = [options.training_script, *options.training_script_args]
    line = line[1:] if line[0] == "--" else line
    if options.no_python:
        check_python(started_by(ROOT / line[0], line[1:], {"python": SAYS}, {}), folder, False, parse, weights)
        return
    check_python(["-m", *line] if options.module else line, folder, False, parse, weights)


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*extras["dependencies"], *(line for each in extras["optional-dependencies"].values() for line in each)]
    others = {re.split(r"[\[>]", line)[0] for line in lines} - {"maskworks"}  # of the index, where nobody is maskworks
    for word in words[1 : words.index("--index-url") if "--index-url" in words else None]:
        if word in others:
            continue
        name, _, extra = word.rstrip("]").partition("[")
        folder = ROOT / name.removeprefix("maskworks-")
        assert (folder / "pyproject.toml").is_file(), word
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert not extra or extra in project["optional-dependencies"], word


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert [word for word in words if "=" not in word and word not in targets] == []


def check_sbatch(words: list[str], folder: Path, parse: Any, weights: Any) -> None:
    """The script itself, with Slurm's programs replaced by ones that say what they were asked for."""
    script = next(index for index, word in enumerate(words) if word.endswith(".sh"))
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_JOB_NUM_NODES": "2"}
    started = started_by(ROOT / words[script], words[script + 1 :], {"srun": SAYS, "scontrol": "echo node0"}, slurm)
    assert started[0] == "torchrun"
    check_torchrun(started[1:], folder, parse, weights)


SAYS = 'printf "%s\\n" "$@"'


def started_by(script: Path, arguments: list[str], programs: dict[str, str], variables: dict[str, str]) -> list[str]:
    """What a shell script prints with other programs on its path."""
    tools = Path.cwd() / "tools"
    tools.mkdir(exist_ok=True)
    for name, program in programs.items():
        (tools / name).write_text(f"#!/bin/bash\n{program}\n")
        (tools / name).chmod(0o755)
    environment = os.environ | variables | {"PATH": f"{tools}:{os.environ['PATH']}"}
    line = ["bash", str(script), *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_is_taken_by_its_program(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parse: Any, weights: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    program, *words = command.words
    match program:
        case "python":
            check_python(words, command.folder, command.mention, parse, weights)
        case "maskworks":
            check_maskworks(words, command.mention, parse, weights)
        case "torchrun" if words[0] == "...":  # what follows it is the point
            check_python([word for word in words if word not in ("...", "--")], ROOT, True, parse, weights)
        case "torchrun":
            check_torchrun(words, command.folder, parse, weights)
        case "pip":
            check_pip(words)
        case "make":
            check_make(words)
        case "sbatch":
            check_sbatch(words, command.folder, parse, weights)
        case _:
            raise AssertionError(f"no rule covers {command}")


def test_there_are_commands_in_every_readme() -> None:
    counts = {page: sum(command.page == page for command in COMMANDS) for page in PAGES if page not in DOCS}
    few = [str(page.relative_to(ROOT)) for page, count in counts.items() if count < 8]
    assert few == ["common/README.md"]


@pytest.mark.parametrize(
    "line",
    [
        "python -m solov2.train no_such_variant",
        "python -m solov2.train --no-such-flag 1",
        "python -m solov2.train --optimizer.lr fast",
        "python -m solov2.no_such_command",
        "python scripts/no_such_program.py --out x",
        "python -m solov2.eval --weights light.safetensors --no-such-flag",
        "torchrun --nproc-per-node 8 -m -- solov2.train --no-such-flag 1",
        "torchrun --no-such-flag 8 -m -- solov2.train",
        "torchrun --no-python scripts/cluster/worker.sh solov2 run --no-such-flag 1",
        "maskworks results found --to csv --out found.csv",
        "maskworks no-such-verb",
        "pip install ./no_such_package",
        "make no-such-target",
        "sbatch scripts/cluster/slurm_8gpu.sh solov2 no_such_variant",
        "conda install maskworks",
    ],
)
def test_a_wrong_command_is_found(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parse: Any, weights: Any
) -> None:
    command = Command(ROOT / "README.md", tuple(line.split()), ROOT, mention=False)
    with pytest.raises((AssertionError, SystemExit, subprocess.CalledProcessError)):
        test_a_command_is_taken_by_its_program(command, tmp_path, monkeypatch, parse, weights)


# --- what runs


PYTHON_BLOCKS = [
    pytest.param(page, block, id=str(page.relative_to(ROOT)))
    for page in PAGES
    if page.name != "python.md"  # which trains: tests/maskworks/test_training.py
    for language, block in FENCE.findall(page.read_text(encoding="utf-8"))
    if language == "python"
]


@pytest.mark.parametrize(("page", "block"), PYTHON_BLOCKS)
def test_what_is_written_in_python_runs(
    page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any
) -> None:
    package = re.findall(r"^import (\w+)$", block, re.MULTILINE)[0]
    for name in re.findall(r'"([\w.]+\.safetensors)"', block):
        (tmp_path / name).symlink_to(weights(package))
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    for name in NAME.findall(block):
        put(weights(package), under_name(name)[0])
    cv2.imwrite(str(tmp_path / "street.jpg"), np.random.RandomState(0).randint(0, 255, (60, 80, 3)).astype(np.uint8))
    joints = np.concatenate((np.random.RandomState(1).uniform(5, 55, (1, 17, 2)), np.full((1, 17, 1), 2.0)), axis=2)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(page), "exec"), {"joints": joints})
    assert len(list(tmp_path.glob("*.png"))) == 1
