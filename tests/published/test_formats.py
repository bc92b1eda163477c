"""Anybody's checkpoints are read, whatever else is in them, and nothing in them runs."""

import argparse
import collections
import functools
import gzip
import hashlib
import io
import pickle
import re
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from maskworks.published.formats import Placeholder, read_published

STATE = {"conv.weight": torch.arange(4.0).reshape(2, 2), "conv.bias": torch.ones(2)}


def save(content: Any, path: Path, how: str) -> Path:
    if how.startswith("torch"):
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(how)))
    return path


FORMATS = ["torch", "torch before 1.6", "0", "2", "5"]


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", FORMATS)
def test_code_in_a_checkpoint_does_not_run(tmp_path, how):
    path = save({"state_dict": STATE, "meta": Malicious(tmp_path / "ran"), "epoch": 3}, tmp_path / "evil.pth", how)
    state, rest = read_published(path)
    assert all(torch.equal(state[name], value) for name, value in STATE.items())
    assert rest["epoch"] == 3
    assert isinstance(rest["meta"], Placeholder)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Malicious(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize("how", FORMATS)
def test_weights_that_are_code_are_refused(tmp_path, how):
    path = save({"state_dict": {"w": Malicious(tmp_path / "ran")}}, tmp_path / "evil.pth", how)
    with pytest.raises(UserError, match=r"evil\.pth: no tensors in it"):
        read_published(path)
    assert not (tmp_path / "ran").exists()


# as pickle calls them: an object is made, attributes of what the file was given are changed, and the next file is read
ATTACKS = {
    "a function's defaults": b"ccopyreg\n_reconstructor\n(N(dV__defaults__\n(Vx\ntstb0.",
    "a class's attributes": b"cos\nsystem\n(N(dVorigin\nVhere\nstb0.",
    "an instance": b"(ios\nsystem\nVtouch ran\n.",
    "a called class": b"cbuiltins\neval\n(Vopen('ran', 'w')\ntR.",
    "a dotted name": b"\x80\x04\x8c\x02os\x8c\x0cpath.abspath\x93)R.",
    "an import": b"cantigravity\nfly\n)R.",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_a_pickle_can_say_is_imported_or_called(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.__import__", functools.partial(refuse_antigravity, __import__))
    Path("attack.pkl").write_bytes(ATTACKS[attack])
    with pytest.raises(UserError, match=r"attack\.pkl"):
        read_published(Path("attack.pkl"))
    assert [path.name for path in Path().iterdir()] == ["attack.pkl"]
    path = save({"model": collections.OrderedDict(STATE)}, tmp_path / "good.pkl", "2")
    assert read_published(path)[0].keys() == STATE.keys()


def refuse_antigravity(original, name, *others):
    assert name != "antigravity"
    return original(name, *others)


class Node(dict):
    """As yacs, mmengine and Lightning write configurations."""


class Logger:
    """As MMEngine's history: its state holds arrays and methods of its own."""

    def __init__(self):
        self.log, self.least = np.arange(3.0), {"min": Logger.__init__}


BESIDE = {
    "args": argparse.Namespace(lr=0.1, dataset="coco"),
    "cfg": Node(MODEL=Node(WEIGHTS="x", DEPTH=50)),
    "hub": collections.defaultdict(Logger, loss=Logger()),
    "call": functools.partial(print, "never"),
    "random": np.random.RandomState(0).get_state(),
    "generator": np.random.default_rng(0),
    "best": np.float64(0.25),
    "counter": collections.Counter("aab"),
    "path": Path("somewhere"),
    "kinds": {type, Node},
    "dtype": torch.float16,
    "size": torch.Size([2, 3]),
}


@pytest.mark.parametrize("how", FORMATS)
def test_what_a_training_leaves_beside_the_weights_is_no_hindrance(tmp_path, how):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
    optimizer.step()
    beside = BESIDE | {"optimizer": optimizer.state_dict(), "scheduler": {"last_epoch": 3}}
    if how in ("0", "2") and hasattr(np.random, "Generator"):
        beside.pop("generator")  # NumPy writes it from protocol 3 on
    state, rest = read_published(save(beside | {"model": STATE}, tmp_path / "model_0.pth", how))
    assert all(torch.equal(state[name], value) for name, value in STATE.items())
    assert rest["args"]["dataset"] == "coco"
    assert rest["args"].origin == "argparse.Namespace"
    assert rest["cfg"]["MODEL"]["DEPTH"] == 50
    assert rest["counter"]["a"] == 2
    assert rest["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert (rest["best"], rest["dtype"], rest["size"]) == (0.25, torch.float16, (2, 3))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.hook = functools.partial(print, "never")


@pytest.mark.parametrize("how", FORMATS)
def test_a_whole_pickled_network_gives_its_state_dict(tmp_path, how):
    network = nn.Sequential(Block(), nn.Sequential(Block()))
    state, _ = read_published(save(network, tmp_path / "model.pth", how))
    expected = network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("content", "key", "taken", "said"),
    [
        ({"state_dict": STATE}, "", STATE, ""),
        ({f"module.{name}": value for name, value in STATE.items()}, "", STATE, ""),
        ({f"_orig_mod.module.{name}": value for name, value in STATE.items()}, "", STATE, ""),
        ({f"module.{name}": value for name, value in STATE.items()} | {"n_averaged": torch.tensor(3)}, "", STATE, ""),
        ({"state_dict": {f"model.{name}": value for name, value in STATE.items()}}, "", STATE, ""),
        ({"model": STATE, "model_ema": {"a": torch.ones(1), "b": torch.ones(1)}}, "", STATE, "'model'.*model_ema"),
        ({"model": {"a": torch.ones(1), "b": torch.ones(1)}, "model_ema": STATE}, "model_ema", STATE, "'model_ema'"),
        ({"weights of mine": STATE, "epoch": torch.tensor(3)}, "", STATE, "weights of mine"),
        ({"student.x": torch.ones(1), "teacher.x": torch.zeros(1)}, "", {"x": torch.ones(1)}, "'student'.*teacher"),
        ({"student.x": torch.ones(1), "teacher.x": torch.zeros(1)}, "teacher", {"x": torch.zeros(1)}, "'teacher'"),
    ],
)
def test_of_several_sets_of_weights_the_usual_is_taken_or_the_one_asked_for(
    tmp_path, capsys, content, key, taken, said
):
    state, _ = read_published(save(content, tmp_path / "file.pth", "torch"), key)
    assert state.keys() == taken.keys()
    assert all(torch.equal(state[name], value) for name, value in taken.items())
    printed = capsys.readouterr().out
    assert re.search(said, printed)
    assert bool(printed) == bool(said)


def test_a_key_that_a_file_does_not_have_is_refused_with_those_it_has(tmp_path):
    path = save({"model": STATE, "model_ema": STATE}, tmp_path / "file.pth", "torch")
    with pytest.raises(UserError, match=r"no weights under 'ema', but under model, model_ema"):
        read_published(path, "ema")


def test_arrays_in_npz_files_are_weights(tmp_path):
    np.savez(tmp_path / "weights.npz", **{name: value.numpy() for name, value in STATE.items()})
    state, _ = read_published(tmp_path / "weights.npz")
    assert all(torch.equal(state[name], value) for name, value in STATE.items())


def test_pytorchs_oldest_format_is_read_and_an_archive_with_links_is_not(tmp_path):
    """A tar of four files, as PyTorch 0.1 wrote them; put together here by hand."""
    values = torch.arange(6.0)
    storages = io.BytesIO()
    for part in (1, (7, "cpu", torch.FloatStorage)):
        pickle.dump(part, storages, protocol=2)
    storages.write(struct.pack("<q", 6) + values.numpy().tobytes())
    pickle.dump([], storages, protocol=2)
    tensors = io.BytesIO()
    for part in (1, (8, 7, torch.FloatTensor)):
        pickle.dump(part, tensors, protocol=2)
    tensors.write(struct.pack("<iiqqqqq", 2, 0, 2, 3, 3, 1, 0))

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return "8" if isinstance(value, torch.Tensor) else None

    content = io.BytesIO()
    Pickler(content, protocol=2).dump({"state_dict": {"w": values}, "epoch": 3})
    path = tmp_path / "old.pth.tar"
    with tarfile.open(path, "w") as tar:
        for name, file in {"storages": storages, "tensors": tensors, "pickle": content}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(file.getvalue())
            tar.addfile(entry, io.BytesIO(file.getvalue()))
    state, rest = read_published(path)
    assert state["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert rest["epoch"] == 3
    with tarfile.open(path, "a") as tar:
        entry = tarfile.TarInfo("storages")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(UserError, match="more than files"):
        read_published(path)


def test_jittors_files_are_read(tmp_path):
    """Arrays by name, pickled; behind them their digest, and eight letters."""
    content = pickle.dumps({"fc.weight": np.ones((2, 3), np.float32), "bn.running_mean": np.zeros(2)}, 4)
    (tmp_path / "net.pkl").write_bytes(content + hashlib.sha1(content).digest() + b"HCAJSLHD")
    state, _ = read_published(tmp_path / "net.pkl")
    assert {name: tuple(value.shape) for name, value in state.items()} == {"fc.weight": (2, 3), "bn.running_mean": (2,)}


def test_a_torchscript_program_is_refused_and_not_run(tmp_path):
    torch.jit.trace(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 2, 2)).save(str(tmp_path / "traced.pt"))
    with pytest.raises(UserError, match=r"TorchScript.*state_dict"):
        read_published(tmp_path / "traced.pt")


def test_a_large_file_is_mapped_and_not_copied(tmp_path):
    torch.save({"w": torch.zeros(2**24)}, tmp_path / "large.pth")
    state, _ = read_published(tmp_path / "large.pth")
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("large.pth")]
    first, _, last = mapped[0].split()[0].partition("-")
    assert int(first, 16) <= state["w"].data_ptr() < int(last, 16)


def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path):
    class Liar:
        def __reduce__(self):
            return (torch._utils._rebuild_tensor_v2, (torch.zeros(4).storage(), 2, (3,), (1,), False, {}))

    torch.save({"w": Liar(), "v": torch.ones(2)}, tmp_path / "liar.pth")
    with pytest.raises(UserError, match=r"a tensor \(3,\) of 4 numbers"):
        read_published(tmp_path / "liar.pth")


COUNTERS = {
    "norm.running_mean": np.arange(2, dtype=">f4"),  # written on a machine of the other byte order
    "norm.num_batches_tracked": np.array(7),  # no dimensions, as Detectron2 writes counters
    "scale": np.float32(0.5),
    "fc.weight": np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
    "names": np.array(["a", "b"]),
}


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("how", FORMATS)
def test_arrays_keep_shape_and_numbers_whatever_the_format_and_the_suffix(tmp_path, how, suffix):
    state, rest = read_published(save({"model": COUNTERS, "labels": {"a"}}, tmp_path / f"file{suffix}", how))
    assert {name: (tuple(value.shape), value.tolist()) for name, value in state.items()} == {
        "norm.running_mean": ((2,), [0.0, 1.0]),
        "norm.num_batches_tracked": ((), 7),
        "scale": ((), 0.5),
        "fc.weight": ((2, 2), [[1.0, 2.0], [3.0, 4.0]]),
    }
    assert rest == {"labels": {"a"}}


@dataclass
class Pickled:
    """An array as a file says it is; with objects in it NumPy itself would follow references that aren't there."""

    shape: tuple[int, ...]
    code: str
    content: bytes | list[int]

    def __reduce__(self):
        dtype = Dtype(self.code)
        return np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, self.shape, dtype, True, self.content)


@dataclass
class Dtype:
    code: str

    def __reduce__(self):
        flags = (3, "|", None, None, None, -1, -1, 0)  # says that its items are no objects
        return np.dtype, (self.code, False, True), flags


@pytest.mark.parametrize("content", [bytes(32), [1, 2, 3, 4]])
def test_of_a_pickled_array_of_objects_nothing_is_built(tmp_path, content):
    file = {"w": torch.ones(2), "b": torch.ones(1), "odd": Pickled((2, 2), "O8", content)}
    state, rest = read_published(save(file, tmp_path / "odd.pth", "torch"))
    assert list(state) == ["w", "b"]
    assert rest["odd"].value is None


@pytest.mark.parametrize(
    ("shape", "code"), [((3,), "f4"), ((10**12,), "u1"), ((2**32, 2**32), "f8"), ((-5,), "f4"), ((2,), "f3")]
)
def test_a_pickled_array_that_isnt_in_the_file_is_refused(tmp_path, shape, code):
    path = tmp_path / "short.pkl"
    path.write_bytes(pickle.dumps({"w": Pickled(shape, code, bytes(8)), "v": np.ones(2)}))
    with pytest.raises(UserError, match="broken or of no format known here"):
        read_published(path)


def doubled(kind: Any) -> Any:
    content = kind(None, None)
    for _ in range(60):
        content = kind(content, content)
    return content


@pytest.mark.parametrize(
    "content",
    [
        doubled(lambda a, b: (a, b)),
        doubled(lambda a, b: {"a": a, "b": b}),
        doubled(lambda a, b: SimpleNamespace(_modules={"a": a, "b": b})),
        functools.reduce(lambda inside, _: [inside], range(300), []),
    ],
    ids=["tuples", "dicts", "modules", "deep"],
)
def test_a_small_file_that_nobody_could_walk_is_refused(tmp_path, content):
    torch.save({"model": STATE, "meta": content}, tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="more than 10,000,000 things in it, or more than 200 in one another"):
        read_published(tmp_path / "bomb.pth")


def test_what_holds_itself_is_walked_once(tmp_path):
    content: dict[str, Any] = {}
    content["self"] = [content]
    torch.save({"model": STATE, "meta": content}, tmp_path / "circle.pth")
    assert read_published(tmp_path / "circle.pth")[0].keys() == STATE.keys()


TOWER = pickle.EMPTY_TUPLE + 60 * (pickle.DUP + pickle.TUPLE2)
DEEP = pickle.EMPTY_TUPLE + 10**6 * pickle.TUPLE1


@pytest.mark.parametrize(
    "content",
    [
        pickle.EMPTY_DICT + TOWER + pickle.NONE + pickle.SETITEM,
        pickle.EMPTY_SET + pickle.MARK + TOWER + pickle.ADDITEMS,
        pickle.MARK + TOWER + pickle.FROZENSET,
        TOWER + pickle.BINPERSID,
        pickle.GLOBAL + b"numpy\ndtype\n" + TOWER + pickle.TUPLE1 + pickle.REDUCE,
        pickle.EMPTY_DICT + DEEP + pickle.NONE + pickle.SETITEM,
    ],
    ids=["key", "member", "frozen", "storage", "dtype", "deep"],
)
def test_what_nobody_could_hash_is_refused_while_it_is_read(tmp_path: Path, content: bytes) -> None:
    """By hand, for pickle itself would hash it too; depth would end the process."""
    (tmp_path / "bomb.pkl").write_bytes(pickle.PROTO + b"\x04" + content + pickle.STOP)
    with pytest.raises(UserError, match="more than 10,000,000 things in it, or more than 200 in one another"):
        read_published(tmp_path / "bomb.pkl")


def test_keys_that_are_plain_tuples_are_read(tmp_path: Path) -> None:
    pair = (1, ("a", frozenset({2})))
    torch.save({"model": STATE, "meta": {pair: {pair}}}, tmp_path / "keys.pth")
    assert read_published(tmp_path / "keys.pth")[1]["meta"] == {pair: {pair}}


def test_what_is_appended_to_a_placeholder_moves_nothing_that_was_there() -> None:
    """Copied anew for each item, a list of n of them would be moved n * n / 2 times."""
    placeholder = Placeholder(1)
    before = placeholder.args
    for number in range(3):
        placeholder.append(number)
    placeholder.extend((3, 4))
    assert placeholder.args is before
    assert before == [1, 0, 1, 2, 3, 4]


def test_a_compressed_file_is_not_unpacked_to_see_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unpacked(*_: object) -> bytes:
        raise AssertionError("of a small file it could be any size, and zeros take minutes")

    (tmp_path / "a.pth").write_bytes(gzip.compress(bytes(10_000)))
    (tmp_path / "b.pth").write_bytes(bytes(10_000))  # which looks like an empty archive
    for library in ("gzip.GzipFile", "lzma.LZMAFile", "bz2.BZ2File"):
        monkeypatch.setattr(f"{library}.read", unpacked)
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UserError, match="not read"):
            read_published(tmp_path / name)
