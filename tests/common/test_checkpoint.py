"""Checkpoints: what comes back, what is refused, and that nothing in a file can run."""

import json
from pathlib import Path

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


@pytest.mark.parametrize("end", [[450, 0.0, 3, 1, 400], []])
def test_the_length_of_a_run_is_read_from_files_that_hold_a_plain_list(tmp_path, end):
    outline = {"step": 7, "best": 0.5, "metrics": {}, "config": {}, "model": {}, "average": None, "scaler": {}}
    text = json.dumps(outline | {"optimizer": {"state": {}}, "end": end})
    checkpoint.write_tensors(tmp_path / "last.state", {}, {"state": text})
    state = load_state(tmp_path / "last.state")
    named = {"steps": 450, "minutes": 0, "patience": 3, "timed": 1, "last_step": 400}
    assert state.end._asdict() == (named if end else dict.fromkeys(named, 0))
    save_state(tmp_path / "again", state)
    assert json.loads(checkpoint.read_tensors(tmp_path / "again")[1]["state"])["end"] == [*state.end]


def test_configuration_differences_are_named():
    before = {"optimizer": {"lr": 0.1, "clip": 1.0}, "seed": 0}
    now = {"optimizer": {"lr": 0.2, "clip": 1.0}, "seed": 0, "extra": True}
    assert differences(before, now) == ["optimizer.lr: 0.1 before, 0.2 now", "extra: None before, True now"]


def test_a_network_for_a_files_weights_is_made_without_random_numbers():
    before = torch.get_rng_state()
    with checkpoint.Unset():
        made = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 4))
        torch.nn.init.kaiming_normal_(made[0].weight)
        assert not torch.full((9,), 9.0).normal_().any()  # or trunc_normal_, which draws again, would not end
        torch.nn.init.trunc_normal_(made[2].weight)
    assert torch.equal(before, torch.get_rng_state())
    assert made[1].weight.tolist() == [1] * 4  # what isn't random is as always
