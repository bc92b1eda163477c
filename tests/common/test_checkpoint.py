"""Checkpoints: what comes back, what is refused, and that nothing in a file can run."""

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.files import write_text
from common.run import checkpoint
from common.run.checkpoint import Checkpoint
from common.run.configuration import differences
from common.run.resume import State, load_state, save_state


def example() -> Checkpoint:
    weights = {"a.weight": torch.arange(6.0).view(2, 3), "a.count": torch.tensor(3)}
    return Checkpoint("solov2", {"model": {"grids": [4, 2]}}, ("cat", "日本"), (3, 17), weights)


def test_everything_comes_back(tmp_path):
    checkpoint.save(tmp_path / "deep" / "file.safetensors", example())
    back = checkpoint.load(tmp_path / "deep" / "file.safetensors")
    assert back.weights.keys() == example().weights.keys()
    assert all(torch.equal(back.weights[name], value) for name, value in example().weights.items())
    assert (back.package, back.config, back.class_names, back.category_ids) == (
        "solov2",
        {"model": {"grids": [4, 2]}},
        ("cat", "日本"),
        (3, 17),
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path, share):
    path = tmp_path / "file.safetensors"
    checkpoint.save(path, example())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"file\.safetensors: not a whole safetensors file"):
        checkpoint.load(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    checkpoint.write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {})
    with pytest.raises(UserError, match="no maskworks checkpoint"):
        checkpoint.load(tmp_path / "x.safetensors")


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "before")

    def half(temporary: Path) -> None:
        temporary.write_text("aft")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(path, half)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


class Malicious:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path, how):
    content = {"state_dict": {"a": torch.zeros(1)}, "meta": Malicious(tmp_path / "ran")}
    path = tmp_path / "evil.pth"
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"evil\.pth: not read"):
        checkpoint.read_published(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Malicious(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s, "meta": {"epoch": 3}}, lambda s: {"model": s}]
)
def test_published_files_are_read_however_they_wrap_their_weights(tmp_path, wrap):
    torch.save(wrap({"module.conv.weight": torch.ones(2)}), tmp_path / "file.pth")
    state, rest = checkpoint.read_published(tmp_path / "file.pth")
    assert list(state) == ["conv.weight"]
    assert rest.get("meta", {"epoch": 3}) == {"epoch": 3}


def test_pickled_arrays_are_read_as_the_tensors_they_are(tmp_path):
    blobs = {"conv1_w": np.arange(6, dtype=np.float32).reshape(2, 3), "names": ["a"]}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "TRAIN: {}"}, protocol=2))
    state, rest = checkpoint.read_published(tmp_path / "model.pkl")
    assert state.keys() == {"conv1_w"}
    assert state["conv1_w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert rest == {"cfg": "TRAIN: {}"}


COUNTERS = {
    "norm.running_mean": np.arange(2, dtype=">f4"),  # written on a machine of the other byte order
    "norm.num_batches_tracked": np.array(7),  # no dimensions, as Detectron2 writes counters
    "scale": np.float32(0.5),
    "fc.weight": np.asfortranarray([[1.0, 2.0], [3.0, 4.0]]),
    "names": np.array(["a", "b"]),
}


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5, "torch"])
def test_arrays_keep_shape_and_numbers_whatever_the_protocol_and_the_suffix(tmp_path, protocol, suffix):
    path, content = tmp_path / f"file{suffix}", {"model": COUNTERS, "labels": {"a"}, "best": np.float64(0.25)}
    if protocol == "torch":
        del content["labels"]  # PyTorch refuses sets
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    state, rest = checkpoint.read_published(path)
    assert {name: (tuple(value.shape), value.tolist()) for name, value in state.items()} == {
        "norm.running_mean": ((2,), [0.0, 1.0]),
        "norm.num_batches_tracked": ((), 7),
        "scale": ((), 0.5),
        "fc.weight": ((2, 2), [[1.0, 2.0], [3.0, 4.0]]),
    }
    assert rest["best"] == 0.25


class HistoryBuffer:
    """As MMEngine's: its state holds arrays and methods of its own."""

    def minimum(self):
        raise AssertionError("this must not run")

    def __init__(self):
        self.log, self.statistics = np.arange(3.0), {"min": HistoryBuffer.minimum}


def test_a_training_of_mmengine_is_read_without_what_its_logger_left(tmp_path, monkeypatch):
    engine = types.ModuleType("mmengine.logging.history_buffer")
    engine.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging", engine.__name__):
        monkeypatch.setitem(sys.modules, name, engine)
    monkeypatch.setattr(HistoryBuffer, "__module__", engine.__name__)
    monkeypatch.setattr(HistoryBuffer.minimum, "__module__", engine.__name__)
    content = {"state_dict": {"a": torch.ones(2)}, "message_hub": {"loss": HistoryBuffer()}, "meta": {"epoch": 12}}
    torch.save(content, tmp_path / "epoch_12.pth")
    state, rest = checkpoint.read_published(tmp_path / "epoch_12.pth")
    assert state["a"].tolist() == [1.0, 1.0]
    assert rest["meta"] == {"epoch": 12}


def test_what_a_refused_file_asks_for_is_named(tmp_path):
    for write in (torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))):
        write({"w": torch.zeros(1).numpy(), "extra": Malicious(tmp_path / "ran")}, tmp_path / "evil.pth")
        with pytest.raises(UserError, match=r"evil\.pth: not read, .*\(it asks for (builtins\.getattr|pathlib\S*)\)$"):
            checkpoint.read_published(tmp_path / "evil.pth")


def test_pickled_arrays_with_code_beside_them_are_refused_and_the_code_does_not_run(tmp_path):
    content = {"blobs": {"w": np.zeros(2, np.float32)}, "cfg": Malicious(tmp_path / "ran")}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"model\.pkl: not read"):
        checkpoint.read_published(tmp_path / "model.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_run_state_comes_back_with_its_optimizer(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], 0.1)
    parameter.grad = torch.ones(3)
    optimizer.step()
    before = optimizer.state_dict()
    state = State(7, float("-inf"), {}, {"a": 1}, {"p": parameter.detach()}, None, before, {})
    save_state(tmp_path / "last.state", state)
    back = load_state(tmp_path / "last.state")
    assert (back.step, back.best, back.average) == (7, float("-inf"), None)
    other = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], 0.5)
    other.load_state_dict(back.optimizer)
    after = other.state_dict()
    assert after["param_groups"][0]["lr"] == 0.1
    assert torch.equal(after["state"][0]["exp_avg"], before["state"][0]["exp_avg"])


def test_configuration_differences_are_named():
    before = {"optimizer": {"lr": 0.1, "clip": 1.0}, "seed": 0}
    now = {"optimizer": {"lr": 0.2, "clip": 1.0}, "seed": 0, "extra": True}
    assert differences(before, now) == ["optimizer.lr: 0.1 before, 0.2 now", "extra: None before, True now"]
