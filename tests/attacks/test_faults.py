"""Killed, interrupted or with a full disk at a random moment, a training goes on to the same bytes."""

import hashlib
import os
import random
import shlex
import sys
from pathlib import Path

import pytest

from tests import small
from tests.running import python

TRIES = int(os.environ.get("MASKWORKS_TRIES", "4"))  # of each fault
BRIEF = "--steps 6 --batch-size 2 --save-every 1 --workers 0 --no-report --device cpu"
PROGRAM = """
import os, resource, runpy, sys, threading
moment, signal, times, size = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
if size:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for time in range(times):
    timer = threading.Timer(moment + 0.05 * time, os.kill, (os.getpid(), signal))
    timer.daemon = True
    timer.start()
sys.argv = sys.argv[5:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
FAULTS = {  # signal, how often, bytes that a file may have; the statuses that it may end with
    "SIGKILL": (9, 1, (-9, 0)),
    "SIGTERM": (15, 1, (-15, 2, 0)),
    "SIGINT": (2, 1, (2, 0, 1, -2, 130)),
    "SIGINT twice": (2, 2, (2, 0, 1, -2, 130)),
    "a full disk": (0, 0, (2,)),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals and limits")
def test_a_training_that_failed_ends_as_an_undisturbed_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    line = ["solov2.train", *small.flags("solov2", tmp_path), *shlex.split(BRIEF)]

    def train(run: str, *more: str, fault: tuple[float, int, int, int] = (0, 0, 0, 0)) -> tuple[int, str]:
        ended = python("program.py", *fault, *line, "--run", run, *more, cwd=tmp_path, status=None)
        return ended.returncode, ended.stderr

    assert train("whole")[0] == 0
    whole = digests(tmp_path / "whole")
    chance, table = random.Random(0), []
    for name, (signal, times, endings) in FAULTS.items():
        survived = 0
        for number in range(TRIES):
            run = f"{name} {number}"
            size = 0 if times else chance.choice([3_000, 300_000, 900_000])
            status, said = train(run, fault=(chance.uniform(0.2, 4), signal, times, size))
            assert status in endings, (name, status, said)
            assert "Traceback" not in said or status < 0 or name.startswith("SIGINT"), (name, said)
            resumed = ["--resume"] if (tmp_path / run / "last.state").exists() else []
            status, said = train(run, *resumed)
            assert status == 0, (name, said)
            survived += digests(tmp_path / run) == whole
        table.append(f"{name:14} solov2.train {TRIES:3} tries, {survived} survived")
    with capsys.disabled():
        print("", *table, sep="\n")
    assert all(row.endswith(f", {TRIES} survived") for row in table)


def digests(run: Path) -> dict[str, str]:
    """Of what a run is for; nothing that was half written lies about."""
    assert not list(run.glob(".*"))
    names = ("last.safetensors", "best.safetensors", "metrics.json")
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in names}
