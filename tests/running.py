"""Commands as a user runs them, on small data sets made for it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import TextIO

import numpy as np
import pytest
from PIL import Image

from maskworks import shapes
from maskworks.command_line import program
from maskworks.prediction.film import write_video

ROOT = Path(__file__).parents[1]
SKIPPED = {"broken.jpg", "empty.jpg", "notes.txt"}  # of make_photographs
READ = {"good", "grey", "cmyk", "one", "large"}


def run(script: str, *arguments: object, cwd: Path, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """python SCRIPT ARGUMENTS, which must end with this exit status (None: any), and what it said."""
    return python(ROOT / script, *arguments, cwd=cwd, status=status)


def python(
    *words: object,
    cwd: Path,
    path: Path = ROOT,
    processes: int = 1,
    seconds: int = 600,
    memory: int = 0,
    status: int | None = 0,
) -> subprocess.CompletedProcess[str]:
    """python WORDS (a file or `-m MODULE`, and arguments), as a copy of a process that has the libraries in memory.

    It must end with this exit status (None: with any); a user's mistake, 2, is answered without a traceback.
    Of several `processes` each has the variables that torchrun gives it, and all write to one output. They are ended
    after so many seconds, and may take so many bytes of memory (0: all) beside what that process has.
    """
    if not hasattr(os, "fork"):
        line, around = [str(word) for word in words], environment(path, processes)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--"]
        launch = [word for word in torchrun if word != "--" or line[0] != "-m"] if processes > 1 else []
        command = [sys.executable, *launch, *line]
        done = subprocess.run(
            command, env=around, cwd=cwd, capture_output=True, text=True, timeout=seconds, check=False
        )
        return checked(done, status)
    return start(*words, cwd=cwd, path=path, processes=processes, seconds=seconds, memory=memory).end(status)


def checked(done: subprocess.CompletedProcess[str], status: int | None) -> subprocess.CompletedProcess[str]:
    assert status in (None, done.returncode), done.stdout + done.stderr
    assert status != 2 or "Traceback" not in done.stderr, done.stderr
    return done


@dataclass
class Program:
    """What runs in copies of the warm process, and where what it says is kept."""

    words: list[str]
    processes: list[int]
    folder: str

    def end(self, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Waited for, with this exit status (None: any)."""
        ended = int(ask({"end": self.processes}))
        said = [Path(self.folder, name).read_text(encoding="utf-8") for name in ("output", "errors")]
        shutil.rmtree(self.folder)
        return checked(subprocess.CompletedProcess(self.words, ended, *said), status)


def start(
    *words: object, cwd: Path, path: Path = ROOT, processes: int = 1, seconds: int = 600, memory: int = 0
) -> Program:
    """`python`, not waited for."""
    folder, line = mkdtemp(), [str(word) for word in words]
    said = {name: f"{folder}/{name}" for name in ("output", "errors")}
    for file in said.values():
        Path(file).touch()
    asked: dict[str, object] = {"words": line, "processes": processes, "cwd": str(cwd)}
    asked |= {"seconds": seconds, "memory": memory, "environment": environment(path, processes)}
    return Program(line, json.loads(ask(asked | said)), folder)


def environment(path: Path, processes: int = 1) -> dict[str, str]:
    alone = os.environ | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
    return alone if processes == 1 else alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}


def ask(question: dict[str, object]) -> str:
    requests, replies = warm_process()
    print(json.dumps(question), file=requests, flush=True)
    return replies.readline()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@cache
def warm_process() -> tuple[TextIO, TextIO]:
    """Where programs are asked for, and where their exit statuses come; it ends with this process."""
    line = [sys.executable, str(ROOT / "tests" / "warm.py")]
    around = os.environ | {"PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(line, env=around, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8")
    assert started.stdin
    assert started.stdout
    return started.stdin, started.stdout


def call(module: str, *words: object) -> None:
    """main() of a program, in this process, as if these words stood behind its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module.rpartition('.')[2]}.py", *map(str, words)])
        import_module(module).main()


def status(main: Callable[[], object], *words: object) -> int:
    """The exit status of a program that is run in this process as its file runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{main.__module__.rpartition('.')[2]}.py", *map(str, words)])
        try:
            program.run(main)
        except SystemExit as end:
            assert isinstance(end.code, int)
            return end.code
    return 0


def evaluation(said: str, cwd: Path) -> Path:
    """The folder that an evaluation says it has written to."""
    found = re.search(r"written: (.*?)[/\\]metrics\.json", said)
    assert found, said
    return cwd / found[1]


def logged_steps(run: Path) -> list[dict]:
    """The lines of log.jsonl that are of steps."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "metrics" not in line]


def small_data(folder: Path, count: int = 6, annotations: str = "instances") -> list[str]:
    """The flags that name a small training and validation set of drawn scenes."""
    shutil.copytree(drawn(count).name, folder, dirs_exist_ok=True)
    flags = []
    for split in ("train", "val"):
        made = shapes.ensure(split, seed=5, count=count, cache=folder)
        flags += [f"--data.{split}.images", str(made.images)]
        flags += [f"--data.{split}.annotations", str(getattr(made, annotations))]
    return flags


@cache
def drawn(count: int) -> TemporaryDirectory[str]:
    """Drawn once in a process; it takes longer than a step of training."""
    folder = TemporaryDirectory()
    for split in ("train", "val"):
        shapes.ensure(split, seed=5, count=count, cache=Path(folder.name))
    return folder


def make_photographs(folder: Path) -> None:
    """A folder with good, odd and bad files, one of them a video."""
    (folder / "deep").mkdir(parents=True)
    noise = np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(folder / "good.jpg")
    Image.fromarray(noise).convert("L").save(folder / "grey.jpg")
    Image.fromarray(noise).convert("CMYK").save(folder / "deep" / "cmyk.jpg")
    Image.fromarray(noise[:1, :1]).save(folder / "one.png")
    Image.fromarray(np.zeros((1000, 1250, 3), np.uint8)).save(folder / "large.png")
    content = (folder / "good.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("not a photograph")
    write_video(folder / "film.mp4", [noise[:48, :64]] * 3, 10)


def skipped_files(stderr: str) -> set[str]:
    return {Path(line.split(":")[1].strip()).name for line in stderr.splitlines() if line.startswith("skipped")}
