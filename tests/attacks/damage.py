"""What is done to good files: cut, flipped, replaced by what is no file, and documents with junk at each place."""

import json
import os
import random
import struct
import zlib
from collections.abc import Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.attacks.attack import Attack, Make, write

JUNK: dict[str, Any] = {
    "null": None,
    "below 0": -1,
    "1e308": 1e308,
    "NaN": float("nan"),
    "2^63": 2**63,
    "400 digits": 10**400,
    "a text": "text",
    "a zero byte": "a\0b",
    "half a pair": "\ud800",
    "an object": {"a": {}},
    "10^5 entries": [0] * 10**5,
    "nested": json.loads("[" * 300 + "]" * 300),
}
CUTS = (0, 1, 4, 30, 0.25, 0.5, 0.75, 0.95, -30, -2, -1)  # bytes, or parts


def cut(name: str, at: float) -> Make:
    def make(folder: Path, good: Path) -> None:
        content = (good / name).read_bytes()
        write(name, content[: int(at * len(content)) if 0 < at < 1 else int(at)])(folder, good)

    return make


def flipped(name: str, seed: int) -> Make:
    def make(folder: Path, good: Path) -> None:
        content, chance = bytearray((good / name).read_bytes()), random.Random(f"{name} {seed}")
        for _ in range(2 ** (seed % 5)):
            place = chance.randrange(len(content) if seed % 2 else min(len(content), 600))  # heads decide most
            content[place] = chance.randrange(256)
        write(name, bytes(content))(folder, good)

    return make


def replaced(name: str, kind: str) -> Make:
    """What stands where a file should."""

    def make(folder: Path, _: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if kind == "a pipe":
            os.mkfifo(path)
        elif kind == "an endless device":
            path.symlink_to("/dev/zero")
        elif kind == "a loop of links":
            path.symlink_to(path.name)
        elif kind == "a folder":
            path.mkdir()
        elif kind == "50 GB of nothing":
            with path.open("wb") as file:
                file.truncate(50_000_000_000)
        elif kind == "3 GB of nothing":
            with path.open("wb") as file:
                file.truncate(3_000_000_000)
        elif kind == "10^6 brackets":
            path.write_text("[" * 10**6)
        elif kind == "zero bytes":
            path.write_bytes(bytes(1000))
        elif kind == "a gzip":
            path.write_bytes(b"\x1f\x8b\x08" + bytes(40))
        elif kind == "UTF-16":
            path.write_bytes('{"images": []}'.encode("utf-16"))
        elif kind == "no UTF-8":
            path.write_bytes(b'{"images": ["\xff\xfe"]}')

    return make


NO_FILES = ("a pipe", "an endless device", "a loop of links", "a folder", "50 GB of nothing", "missing")
NO_TEXT = (*NO_FILES, "3 GB of nothing", "10^6 brackets", "zero bytes", "a gzip", "UTF-16", "no UTF-8")


@cache
def there(good: Path) -> list[str]:
    return [path.relative_to(good).as_posix() for path in good.rglob("*") if path.is_file()]


def beside(name: str, *makes: Make) -> Make:
    """All that is good but own data of other kinds, linked, and what `makes` put in the place of `name`."""

    def make(folder: Path, good: Path) -> None:
        kind = "/".join(name.split("/")[:2]) + "/"
        wanted = [f for f in there(good) if f != name and (f.startswith(kind) or not f.startswith("own/"))]
        for parent in {Path(inner).parent for inner in wanted}:
            (folder / parent).mkdir(parents=True, exist_ok=True)
        for inner in wanted:
            os.link(f"{good}/{inner}", f"{folder}/{inner}")
        for each in makes:
            each(folder, good)

    return make


def damaged(name: str, words: tuple[str, ...], flips: int = 12, kinds: tuple[str, ...] = NO_FILES) -> Iterator[Attack]:
    """A file cut, flipped and replaced, all others around it good."""
    label = f"{words[1]} {name}"
    for at in CUTS:
        yield Attack(f"{label} cut at {at}", words, beside(name, cut(name, at)))
    for seed in range(flips):
        yield Attack(f"{label} flipped {seed}", words, beside(name, flipped(name, seed)))
    for kind in kinds:
        yield Attack(f"{label} is {kind}", words, beside(name, replaced(name, kind)))


def documents(name: str, content: Any) -> Iterator[tuple[str, Make]]:
    """JSON with junk, or nothing, at each kind of place of the good document."""
    kinds: dict[str, tuple[Any, ...]] = {}
    for trail in trails(content):
        kinds.setdefault(".".join("0" if isinstance(key, int) else str(key) for key in trail), trail)
    for place, trail in kinds.items():
        for fault in (*JUNK, "missing", "twice"):
            yield f"{name}: {fault} at {place}", partial(_document, name, content, trail, fault)


def trails(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*before, key)
        if isinstance(value, dict | list):
            yield from trails(value, (*before, key))


def _document(name: str, content: Any, trail: tuple[Any, ...], fault: str, folder: Path, good: Path) -> None:
    content = deepcopy(content)
    inner = content
    for key in trail[:-1]:
        inner = inner[key]
    if fault == "missing":
        del inner[trail[-1]]
    elif fault == "twice" and isinstance(inner, list):
        inner.append(deepcopy(inner[trail[-1]]))
    elif fault == "twice":
        inner[trail[-1]] = [inner[trail[-1]]] * 2
    else:
        inner[trail[-1]] = JUNK[fault]
    write(name, json.dumps(content))(folder, good)


def png(width: int, height: int, extra: bytes = b"") -> bytes:
    """A PNG that claims a size and holds a few bytes of it."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + extra + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def text_bomb() -> bytes:
    return chunk(b"zTXt", b"comment\0\0" + zlib.compress(b" " * 50_000_000, 1))
