"""What a run tells while it goes: log.jsonl, TensorBoard, and a progress bar or plain lines on the terminal."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from common.errors import UserError
from common.files import naming, read_text, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SECONDS_BETWEEN_LINES = 15.0  # where there is no terminal to draw a bar on


class Logged(msgspec.Struct):
    step: int


class RunLog:
    """One JSON line for each optimizer step and each evaluation; the same for TensorBoard, where it is installed."""

    def __init__(self, run: Path, first_step: int):
        path = run / "log.jsonl"
        # what a killed run logged after its last resume point will be logged again
        kept = list(_up_to(first_step, path)) if first_step else []
        write_text(path, "".join(line + "\n" for line in kept))
        self.file = path.open("a", encoding="utf-8")
        self.board = open_board(run, first_step)

    def step(self, step: int, epoch: int, values: dict[str, float]) -> None:
        self._line({"step": step, "epoch": epoch, **values})
        for name, value in values.items():
            self._scalar(f"train/{name}", value, step)

    def metrics(self, step: int, epoch: int, metrics: dict[str, dict[str, Any]]) -> None:
        self._line({"step": step, "epoch": epoch, "metrics": metrics})
        self._scalars(metrics, "", step)

    def _scalars(self, values: Mapping[str, Any], prefix: str, step: int) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping) and name != "per_class":
                self._scalars(value, f"{prefix}{name}/", step)
            elif isinstance(value, float):
                self._scalar(f"{prefix}{name}", value, step)

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self.board is not None:
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()

    def _line(self, values: dict[str, Any]) -> None:
        with naming(Path(self.file.name)):
            self.file.write(json.dumps(values) + "\n")
            self.file.flush()


def open_board(run: Path, first_step: int) -> "SummaryWriter | None":
    """TensorBoard's event files, for who has it installed; log.jsonl has all that is in them."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print("without TensorBoard's event files: pip install tensorboard writes them too; log.jsonl has the same")
        return None
    return SummaryWriter(str(run), purge_step=first_step or None)


class Bar:
    """A progress bar with the time left; without a terminal, a line every so often."""

    def __init__(self, title: str, total: int, done: int = 0, show: bool = True):
        self.title, self.total, self.done, self.show = title, total, done, show
        self.started, self.start, self.last_line = time.monotonic(), done, 0.0
        console = Console(file=sys.stderr)
        self.drawn = show and console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=not self.drawn,
            speed_estimate_period=120,
        )
        self.task = self.progress.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, count: int = 1, note: str = "", total: int | None = None) -> None:
        self.done, self.total = self.done + count, total or self.total
        self.progress.update(self.task, completed=self.done, total=self.total, note=note)
        now = time.monotonic()
        finished = self.done >= self.total
        if self.show and not self.drawn and (finished or now - self.last_line > SECONDS_BETWEEN_LINES):
            self.last_line = now
            elapsed = now - self.started
            left = elapsed / max(self.done - self.start, 1) * (self.total - self.done)
            print(
                f"{self.title} {self.done}/{self.total}, {elapsed:.0f} s, {left:.0f} s left  {note}",
                file=sys.stderr,
            )


def _up_to(step: int, path: Path) -> Iterator[str]:
    """The whole lines of a log up to a step; a kill may have cut the last one."""
    text = read_text(path) if path.exists() else ""
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            entry = msgspec.json.decode(line, type=Logged)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not of a run's log ({error}); remove it") from error
        if entry.step <= step:
            yield line


def peak_memory(device: torch.device) -> str:
    """The most that this process has had."""
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB of the GPU's memory"
    if sys.platform == "win32":
        return "memory unknown"
    from resource import RUSAGE_SELF, getrusage  # which Windows has not

    return f"{getrusage(RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == 'darwin' else 2**20):.1f} GiB of memory"
