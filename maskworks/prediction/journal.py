"""What a long run has finished, so that it can go on after a stop: a JSON line for each item, written at once.

Every process of a run writes a file of its own and reads those of all. A line that a kill has cut counts for nothing.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import naming, write_text
from common.run.configuration import differences
from common.run.distributed import barrier, is_main, process_index

Json = dict[str, Any]
SETTINGS = "settings.json"
OURS = re.compile(rf"\d+\.jsonl|{re.escape(SETTINGS)}|\.{re.escape(SETTINGS)}\..*")  # the last: of a killed process
Place = tuple[Path, int]  # the file of a line, and where in it the line begins


class Journal:
    """A folder of lines; the last line of a key holds."""

    def __init__(self, folder: Path, settings: Json, resume: bool):
        """`settings` is what the results depend on: going on with others is refused."""
        self.folder = folder
        if is_main():
            prepare(folder, json.loads(json.dumps(settings)), resume)
        barrier()
        self.places = dict(read_places(folder))
        barrier()  # nobody writes before all have read the same
        path = folder / f"{process_index()}.jsonl"
        cut_last_line(path)
        self.file = path.open("ab", buffering=0)  # or what a full disk didn't take would be tried again on closing

    def write(self, key: str, content: Json) -> None:
        left = memoryview((json.dumps({"key": key} | content) + "\n").encode("ascii"))
        with naming(self.folder):
            while left:
                left = left[self.file.write(left) :]

    def read(self, key: str) -> Json:
        path, begin = self.places[key]
        with path.open("rb") as file:
            file.seek(begin)
            content: Json = json.loads(file.readline())
        return content

    def gather(self) -> None:
        """The processes wait here for each other; then the main one knows what all have written."""
        barrier()
        if is_main():
            self.places = dict(read_places(self.folder))

    def close(self) -> None:
        self.file.close()

    def remove(self) -> None:
        """At the very end of a run, by one process: what is finished needs no journal."""
        self.close()
        clear(self.folder)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def prepare(folder: Path, settings: Json, resume: bool) -> None:
    """An empty journal, or the one of a stopped run if it is to go on."""
    folder.mkdir(parents=True, exist_ok=True)
    if foreign := sorted(path.name for path in folder.iterdir() if not OURS.fullmatch(path.name)):
        raise UserError(f"{folder}: holds what no run wrote there ({foreign[0]}); move it, or write to another folder")
    unfinished = any(path.stat().st_size for path in folder.glob("*.jsonl"))
    if unfinished and not resume:
        raise UserError(
            f"{folder}: a run was stopped here; add --resume to go on with it, or remove this folder to begin anew"
        )
    if unfinished:
        before = read_settings(folder / SETTINGS)
        if changes := differences(before, settings):
            raise UserError(
                f"{folder}: the stopped run had other settings ({'; '.join(changes)}); "
                "go on with those, or remove this folder to begin anew"
            )
        return
    clear(folder)
    write_text(folder / SETTINGS, json.dumps(settings) + "\n")


def clear(folder: Path) -> None:
    for path in folder.iterdir():
        if OURS.fullmatch(path.name):
            path.unlink()


def read_settings(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove its folder to begin anew") from error


def read_places(folder: Path) -> Iterator[tuple[str, Place]]:
    """Where each whole line is."""
    for path in sorted(folder.glob("*.jsonl")):
        begin = 0
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield read_key(line, path), (path, begin)
                begin += len(line)


def read_key(line: bytes, path: Path) -> str:
    try:
        return str(json.loads(line)["key"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: a line of it is damaged ({error}); remove its folder to begin anew") from error


def cut_last_line(path: Path) -> None:
    """Of a file that a killed process left, if it isn't whole."""
    if path.exists():
        with path.open("rb+") as file:
            whole = sum(len(line) for line in file if line.endswith(b"\n"))
            file.truncate(whole)
