"""Tables in pages that programs write, between two comments; and results that outlast a run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_text

README = Path(__file__).resolve().parent.parent / "README.md"


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_between(page: Path, name: str, content: str) -> None:
    """Put the content between <!-- NAME: ... --> and <!-- end of NAME -->, instead of what is there."""
    text = page.read_text(encoding="utf-8")
    before, opening, rest = text.partition(f"<!-- {name}: ")
    comment, arrow, rest = rest.partition(" -->")
    _, closing, after = rest.partition(f"<!-- end of {name} -->")
    if not (opening and arrow and closing):
        raise UserError(f"{page}: no comments <!-- {name}: ... --> and <!-- end of {name} --> in it; put them back")
    write_text(page, f"{before}{opening}{comment}{arrow}\n{content}\n{closing}{after}")


def read_results(path: Path) -> dict[str, Any]:
    """What earlier runs found."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error}); remove it to start anew") from error
    return content
