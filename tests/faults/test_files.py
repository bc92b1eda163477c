"""Files that cannot be written, and processes that are killed while they write them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import solov2.predict
from common.errors import UserError
from common.files import write_text
from common.run import checkpoint
from common.run.checkpoint import Checkpoint, load, save
from common.run.configuration import to_dict
from common.run.resume import State, save_state
from common.run.runlog import RunLog
from maskworks.command_line.program import surroundings
from maskworks.prediction.film import write_video
from tests.faults.guessing import Guess, contents, guess, pictures, predictions
from tests.faults.surroundings import full_disk, kill_oneself, killed, only_line, train
from tests.running import small_data, status


def example(value: float) -> Checkpoint:
    return Checkpoint("solov2", {}, ("cat",), (1,), {"weight": torch.full((100_000,), value)})


@pytest.mark.parametrize("moment", ["half written", "before it is renamed"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_old_one(tmp_path, monkeypatch, moment):
    path = tmp_path / "last.safetensors"
    save(path, example(1.0))

    def half(tensors: object, temporary: Path, metadata: object) -> None:
        temporary.write_bytes(path.read_bytes()[:200_000])
        kill_oneself()

    with monkeypatch.context() as patch:
        if moment == "half written":
            patch.setattr(checkpoint, "save_file", half)
        else:
            patch.setattr(os, "fsync", kill_oneself)
        assert killed(lambda: save(path, example(2.0)))
    assert load(path).weights["weight"].eq(1).all()
    assert len(list(tmp_path.iterdir())) == 2  # a kill can't clean up, but the run that goes on does
    checkpoint.remove_unfinished(path)
    assert list(tmp_path.iterdir()) == [path]
    save(path, example(2.0))
    assert load(path).weights["weight"].eq(2).all()


@pytest.mark.parametrize("kind", ["checkpoint", "state", "text"])
def test_a_full_disk_leaves_the_old_file_and_is_one_line(tmp_path, kind):
    path = tmp_path / "file"

    def write(value: float) -> None:
        weight = torch.full((100_000,), value)
        if kind == "checkpoint":
            save(path, example(value))
        elif kind == "state":
            save_state(path, State(1, 0.0, {}, {}, {"weight": weight}, None, {"state": {}}, {}))
        else:
            write_text(path, str(value) * 100_000)

    write(1.0)
    before = path.read_bytes()
    with full_disk(50_000), pytest.raises((UserError, OSError)) as caught:
        write(2.0)
    line = str(caught.value) if isinstance(caught.value, UserError) else surroundings(caught.value)
    assert line is not None
    assert line.startswith(f"{path}: cannot be ")
    assert "free some space" in line
    assert "\n" not in line
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_that_cannot_grow_is_named(tmp_path):
    log = RunLog(tmp_path, 0)
    with full_disk(2000), pytest.raises(OSError, match=r"log\.jsonl") as caught:
        for step in range(1, 1000):
            log.step(step, 0, {})
    assert "free some space" in str(surroundings(caught.value))


def test_training_on_a_full_disk_ends_in_a_line(tmp_path, capfd):
    data = small_data(tmp_path)
    with full_disk(400_000):
        assert train("--steps", 1, "--workers", 0, "--run", tmp_path / "run", *data) == 2
    line = only_line(capfd.readouterr().err)
    assert "safetensors: cannot be written" in line
    assert "free some space" in line
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_predicting_on_a_full_disk_ends_in_a_line_and_goes_on_when_there_is_space(tmp_path):
    pictures(tmp_path / "in", 6)
    guess(tmp_path, Guess(), out="whole")
    space = (tmp_path / "whole" / "drawings" / "0.jpg").stat().st_size
    with full_disk(space + 1), pytest.raises(OSError, match="out") as caught:
        guess(tmp_path, Guess())
    assert "free some space" in str(surroundings(caught.value))
    guess(tmp_path, Guess(), resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(predictions(tmp_path)["annotations"]) == 6


def test_a_video_that_is_cut_by_a_full_disk_takes_no_name(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 96, 128, 3), dtype=np.uint8)
    with full_disk(5000), pytest.raises(UserError, match=r"film\.mp4: .*disk full"):
        write_video(tmp_path / "film.mp4", noise, 5)
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_written_to_are_named(tmp_path, capfd):
    pictures(tmp_path / "in", 1)
    model = solov2.SOLOv2(config := solov2.VARIANTS["shapes"], ("cat",))
    weights = tmp_path / "weights.safetensors"
    save(weights, Checkpoint("solov2", to_dict(config), ("cat",), (1,), model.state_dict()))
    (tmp_path / "file").write_text("not a folder: nobody, root neither, can write into it")
    out = tmp_path / "file" / "out"
    assert status(solov2.predict.main, "--weights", weights, tmp_path / "in", "--out", out, "--device", "cpu") == 2
    assert str(tmp_path / "file") in only_line(capfd.readouterr().err)
    assert train("--steps", 1, "--workers", 0, "--run", out, *small_data(tmp_path)) == 2
    assert str(tmp_path / "file") in only_line(capfd.readouterr().err)
