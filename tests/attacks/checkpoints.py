"""Attacks on checkpoints: damaged, hostile pickles, bombs, and what one of ours says beside its weights."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.attacks.attack import REFUSED, Attack, Make, reading, write
from tests.attacks.damage import NO_FILES, NO_TEXT, beside, damaged
from tests.attacks.good import CHECKPOINTS


def checkpoints() -> Iterator[Attack]:
    for name in CHECKPOINTS:
        for reader in (("weights", "solov2"), ("package",)):
            yield from damaged(name, reading(*reader, name), 30, NO_TEXT)
    for name in ("model.safetensors", "zip.pth"):
        yield from damaged(name, ("solov2.predict", "--weights", name, "images/a.png"), 2, NO_FILES[:3])
    yield from damaged("old.pth", ("maskworks", "convert", "old.pth", "--out", "made.safetensors"), 4, NO_TEXT)
    for name, makes in (("a.safetensors", headers()), ("a.pth", pickles())):
        for number, make in enumerate(makes):
            for reader in (("weights", "solov2"), ("package",)):
                yield Attack(f"{reader[0]} odd {name} {number}", reading(*reader, name), make, (REFUSED,))
    for place, value in config_faults():
        make = beside("model.safetensors", partial(_reworded, place, value))
        yield Attack(f"a checkpoint's {place} {value!r:.30}", reading("weights", "solov2", "model.safetensors"), make)


def headers() -> Iterator[Make]:
    for length in (0, 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1):
        yield write("a.safetensors", struct.pack("<Q", length) + b'{"a":1}')
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    shapes = ([-1], [2**40, 2**40], [0, 2**63], [1] * 10**5)
    offsets = ([8, 0], [0, 2**40], [2**63, 2**63 + 8])
    changes = [*({"shape": one} for one in shapes), *({"data_offsets": one} for one in offsets), {"dtype": "F3"}]
    for change in changes:
        yield write("a.safetensors", _safetensors({"a": tensor | change}))
    yield write("a.safetensors", _safetensors({"__metadata__": {"format": "1", "config": "[" * 10**6}, "a": tensor}))
    yield write("a.safetensors", _safetensors({"__metadata__": {"format": 1}, "a": tensor}))
    yield write("a.safetensors", _safetensors({f"{n}": tensor for n in range(10**4)}))
    yield write("a.safetensors", _safetensors({"a": tensor, "b": tensor}))
    yield write("a.safetensors", _safetensors([]))


def _safetensors(header: Any) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(8)


def pickles() -> Iterator[Make]:
    proto, mark = b"\x80\x02", pickle.EMPTY_DICT + pickle.MARK
    tuples = pickle.EMPTY_TUPLE + 60 * (pickle.DUP + pickle.TUPLE2)
    lists = b"]" + b"".join(b"q" + bytes([n]) + b"]h" + bytes([n]) + b"ah" + bytes([n]) + b"a" for n in range(60))
    for content in (
        proto + mark + tuples + b"N" + pickle.SETITEMS + b".",
        proto + b"}X\x01\x00\x00\x00a" + lists + b"s.",
        proto + pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + 10**6 * pickle.TUPLE1 + b"Ns.",
        proto + b"cposix\nsystem\nX\x04\x00\x00\x00echo\x85R.",
        proto + b"cbuiltins\neval\nX\x0a\x00\x00\x00exit(print)\x85R.",
        proto + b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.",
        proto + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85c_codecs\nencode\n"
        b"X\x01\x00\x00\x00bX\x06\x00\x00\x00latin1\x86R\x87R.",
        proto + b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        proto + b"cbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R.",
        proto + b"cdatetime\ndatetime\nU\x0a" + bytes(10) + b"\x85R.",
        b"L" + b"9" * 10**6 + b"L\n.",
        proto + b"\x8b\xff\xff\xff\x7f" + b"\xff" * 100 + b".",
        proto + b"T\xff\xff\xff\x7fabc.",
        b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7fabc.",
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",
        b"\x80\xff.",
        proto + b"j\xff\xff\xff\xff.",
        proto + b"r\xff\xff\xff\x7fK\x01.",
        b"(" * 10**6 + b".",
        proto + b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        proto + b"}}}s.",
        proto + b"Q.",
        proto + b"\x82\x01.",
    ):
        yield write("a.pth", content)
    for name, size in (("archive/data.pkl", 2**20), ("archive/data.pkl", 2**31), ("a.npy", 2**31)):
        yield lambda folder, good, name=name, size=size: write("a.pth", zip_bomb(name, size))(folder, good)


@cache
def zip_bomb(name: str, size: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open(name, "w", force_zip64=True) as entry:
            for _ in range(size >> 20):
                entry.write(bytes(1 << 20))
        if not name.endswith("npy"):
            archive.writestr("archive/version", "3\n")
    return file.getvalue()


def config_faults() -> Iterator[tuple[str, Any]]:
    for place in ("tower_depth", "fpn_channels", "grids", "backbone", "deformable", "std"):
        for value in (0, -1, 10**6, 2**40, 1e308, "a", None, [], [2**40] * 5, {}, float("nan")):
            yield f"config.model.{place}", value
    for value in ([], [1], [1, 2, 3], ["a", "b"], [2**63, 1], [1, 1], {}, None, 1, [-1, -2], [1.5, 2]):
        yield "category_ids", value
    for value in ([], ["a"], ["a", "a"], [1, 2], ["a\0", "b"], ["\ud800", "b"], ["x" * 10**6, "y"], ["a"] * 10**6):
        yield "class_names", value
    for value in ("", "solov3", "yolact", "../solov2", "\0", "os"):
        yield "package", value


def _reworded(place: str, value: Any, folder: Path, good: Path) -> None:
    content = (good / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said = header["__metadata__"]
    name, *trail = place.split(".")
    if trail:
        config = inner = json.loads(said["config"])
        for key in trail[:-1]:
            inner = inner[key]
        inner[trail[-1]] = value
        said["config"] = json.dumps(config)
    else:
        said[name] = value if name == "package" else json.dumps(value)
    text = json.dumps(header).encode()
    write("model.safetensors", struct.pack("<Q", len(text)) + text + content[8 + length :])(folder, good)
