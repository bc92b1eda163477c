"""Disks that are full, processes that are killed, and commands that run within the test's own process."""

import os
import resource
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import solov2.train
from tests.running import status

SMALL = shlex.split(
    "--model.fpn-channels 32 --model.tower-channels 32 --model.tower-depth 1 --augment.long-side 64 "
    "--augment.short-sides 64 --test.long-side 64 --test.short-side 64 --batch-size 2 --no-report --device cpu"
)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, by any program: what the system then says is what a full disk says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def killed(act: Callable[[], object]) -> bool:
    """Whether `act`, done in a process of its own, ends in SIGKILL."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_oneself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(*flags: object) -> int:
    """A small SOLOv2's training; the exit status."""
    return status(solov2.train.main, *SMALL, *flags)


def only_line(output: str) -> str:
    """The one line that says what is wrong, where nothing looks like a traceback."""
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]
