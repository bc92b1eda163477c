"""What is published, by the names that --weights and load take.

python -m common.run.weights                              the list, and which of it is here already
python -m common.run.weights --download solov2:r50_3x     fetched and converted ahead, to be used offline
python -m common.run.weights push FILE hf:OWNER/REPO      a checkpoint of yours to the Hugging Face Hub, with its card
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Column, Table

from common.files import user_cache
from maskworks.command_line import program
from maskworks.published import hub
from maskworks.published.names import local_file, published

WIDTH = 170  # characters of the list at least: narrower, its names would be cut


@dataclass
class Names:
    """Print the names of published weights, or fetch some."""

    download: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Fetch and convert this one; the flag may be repeated."""


@dataclass
class Push:
    """Write a checkpoint of ours to the Hugging Face Hub, with a card made from what it says."""

    file: Annotated[Path, tyro.conf.Positional]
    """The checkpoint; of a metrics.json beside it, the card has the scores."""
    name: Annotated[str, tyro.conf.Positional]
    """hf:OWNER/REPO, or hf:OWNER/REPO/FILE"""
    licence: str = "unknown"
    """Of the weights, in the Hub's words, as apache-2.0; what was trained on from others' keeps theirs."""


def main() -> None:
    if sys.argv[1:2] == ["push"]:
        options = tyro.cli(Push, prog="weights push", args=sys.argv[2:])
        print(f"written: {hub.push(options.file, options.name, options.licence)}")
        return
    names = tyro.cli(Names, prog="weights", description=__doc__).download
    for name in names:
        print(f"{name}: {local_file(name).resolve()}")
    if not names:
        Console(width=max(Console().width, WIDTH)).print(table())


def table() -> Table:
    """A row for each file."""
    made = Table(Column("name", no_wrap=True), "published score", "on", "trained on", "licence", "here")
    for package, entries in published().items():
        for name, entry in entries.items():
            scores = ", ".join(f"{kind} {score}" for kind, score in entry.scores.items())
            folder = user_cache() / "weights" / package / name
            here = "yes" if any(folder.glob("*.sha256")) else "by hand" if entry.file else ""
            scored_on = entry.scored_on if scores else ""
            made.add_row(f"{package}:{name}", scores, scored_on, entry.trained_on, entry.licence, here)
    return made


if __name__ == "__main__":
    program.run(main)
