"""What a training tells whoever started it from Python: each step, each evaluation, and the run that it left."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Run:
    """A training that has ended: its folder, and what is in there."""

    folder: Path
    reported: bool = True
    """Whether it is to get a report, from this process."""

    @property
    def scores(self) -> dict[str, Any]:
        """metrics.json: {"segm": {"AP": ..}, ..}, of the run's end."""
        scores: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
        return scores

    @property
    def weights(self) -> Path:
        """The best that the run had."""
        return self.folder / "best.safetensors"

    @property
    def report(self) -> Path | None:
        page = self.folder / "report.html"
        return page if page.exists() else None


@runtime_checkable
class Callback(Protocol):
    """A class of yours that inherits from this one has what it doesn't define; of several processes the first calls."""

    def on_step(self, step: int, values: Mapping[str, float]) -> None:
        """After each optimizer step: every loss term, their sum `loss`, `lr` and `images_per_second`."""

    def on_evaluate(self, step: int, scores: Mapping[str, Mapping[str, Any]]) -> bool | None:
        """After each evaluation, its scores; True: that is enough, the run ends here."""

    def on_end(self, run: Run) -> None:
        """Once, when files and report are written."""
