"""An attack is a command and the files that it meets; a process of its own ends it, and how that ended is judged."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.running import python

SECONDS, MEMORY = 20, 2 << 30  # at most; address space, beside what the warm process has
REFUSED, TAKEN = 2, 0
Make = Callable[[Path, Path], None]  # (the attack's folder, the folder of good files)


@dataclass(frozen=True)
class Attack:
    """What is done, and how it may end: refused with exit status 2 and a line, or taken with exit status 0."""

    name: str
    words: tuple[str, ...]  # after `python -m`
    make: Make
    endings: tuple[int, ...] = (REFUSED, TAKEN)
    leaves: str = ""  # a file that is there where it was taken


def reading(kind: str, *words: str) -> tuple[str, ...]:
    """Reads as the commands do, without the seconds that a network takes."""
    return "tests.attacks.reading", kind, *words


def faults(attacks: Sequence[Attack], folder: Path, good: Path) -> list[str]:
    """What went wrong when they were carried out, one process for all of them as long as it lives; nothing is well."""
    found: list[str] = []
    rest = list(attacks)
    while rest:
        statuses = ended(rest, folder, good)
        for number, (attack, status) in enumerate(zip(rest, statuses, strict=False)):
            found += [
                f"{attack.name}: {fault}; {attack.words}" for fault in judged(attack, status, folder / str(number))
            ]
        rest = rest[len(statuses) :]
        shutil.rmtree(folder)
    return found


def ended(attacks: Sequence[Attack], folder: Path, good: Path) -> list[int]:
    """The exit statuses of the first of them, up to one that ended the process."""
    lines, before = [], []
    for number, attack in enumerate(attacks):
        place = folder / str(number) / "files"
        place.mkdir(parents=True)
        attack.make(place, good)
        before.append(files(place))
        said = {name: str(place.with_name(name)) for name in ("output", "errors")}
        lines.append(json.dumps({"words": attack.words, "cwd": str(place), "seconds": SECONDS} | said))
        place.with_name("before").write_text(json.dumps(before[-1]))
    (folder / "work").write_text("\n".join(lines))
    whole = SECONDS * len(attacks)
    words = ("-m", "tests.attacks.together", folder / "work", folder / "ended")
    process = python(*words, cwd=folder, seconds=whole, memory=MEMORY, status=None)
    statuses = [int(line) for line in (folder / "ended").read_text().split()] if (folder / "ended").exists() else []
    return statuses if len(statuses) == len(attacks) else [*statuses, process.returncode]


def judged(attack: Attack, status: int, folder: Path) -> list[str]:
    place, output, said = (
        folder / "files",
        *((folder / name).read_text(errors="replace") for name in ("output", "errors")),
    )
    before, after = json.loads((folder / "before").read_text()), files(place)
    found = [f"{name} was changed" for name, state in before.items() if after.get(name) != state]
    if attack.leaves and status == TAKEN and not (place / attack.leaves).exists():
        found.append(f"{attack.leaves} is missing")
    lines = re.findall(r"^error: *(.*)$", said, re.MULTILINE)
    if status < 0:
        found.append(f"ended by signal {-status}" + (f", after {SECONDS} s" if status == -14 else ""))
    elif "Traceback" in said + output:
        found.append(f"a traceback: {said[-300:]}")
    elif status not in attack.endings:
        found.append(f"exit status {status}, expected {attack.endings}: {said.strip()[-300:] or 'without a word'}")
    elif status == REFUSED and not (len(lines) == 1 and len(lines[0]) > 10):
        found.append(f"{len(lines)} lines of error: {said.strip()[-300:]}")
    elif status == REFUSED:
        rest = re.split(r"^error: ", said, flags=re.MULTILINE)[1].splitlines()[1:]
        if not all(line.startswith("  ") for line in rest):  # names of weights that don't fit are listed below
            found.append(f"more than a line: {said.strip()[-300:]}")
    return found


def files(folder: Path) -> dict[str, object]:
    """What was there before must be the same afterwards: inode, size and time of change."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in set(names) - {"log.jsonl", "report.html", "config.yaml"}:  # which a run writes anew
            state = os.lstat(f"{parent}/{name}")
            found[f"{parent}/{name}"] = [state.st_ino, state.st_size, state.st_mtime_ns]
    return found


def write(name: str, content: bytes | str) -> Make:
    return partial(_write, name, content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)


def _write(name: str, content: bytes, folder: Path, _: Path) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
