"""What happens to a training when a part of it dies, or when its data has nothing to learn."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import get_worker_info

import solov2.eval
from common.data.coco import CocoDataset
from common.run.checkpoint import load
from common.run.resume import load_state
from tests.faults.surroundings import SMALL, kill_oneself, only_line, train
from tests.running import small_data, start, status


def test_a_loader_worker_that_dies_is_one_line_and_the_run_goes_on(tmp_path, monkeypatch, capfd):
    flags = ["--epochs", 1, "--save-every", 1, "--workers", 1, "--run", tmp_path / "run", *small_data(tmp_path)]
    whole = CocoDataset.__getitem__

    def deadly(dataset: CocoDataset, index: int) -> object:
        if get_worker_info() and index == 3:
            kill_oneself()
        return whole(dataset, index)

    with monkeypatch.context() as patch:
        patch.setattr(CocoDataset, "__getitem__", deadly)
        assert train(*flags) == 2
    line = only_line(capfd.readouterr().err)
    assert "a loader worker died" in line
    assert "--resume" in line
    assert train(*flags, *(["--resume"] if (tmp_path / "run" / "last.state").exists() else [])) == 0
    assert load_state(tmp_path / "run" / "last.state").step == 3


AS_TORCHRUN = """
import os, runpy, sys
from pathlib import Path
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

def train(*words):
    Path("rank" + os.environ["RANK"]).write_text(str(os.getpid()))
    sys.argv = ["train.py", *words]
    runpy.run_module("solov2.train", run_name="__main__", alter_sys=True)

standalone = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "test"}
elastic_launch(LaunchConfig(1, 1, 2, start_method="fork", max_restarts=0, **standalone), train)(*sys.argv[1:])
"""


def test_a_process_of_torchrun_that_dies_stops_the_job_which_then_goes_on(tmp_path):
    """By torchrun's own agent, whose processes are copies of it and needn't import torch again."""
    run, data = tmp_path / "run", small_data(tmp_path)
    flags = ["--steps", "300", "--epochs", "100", "--save-every", "2", "--workers", "0", "--evaluate-every", "0"]
    (tmp_path / "job.py").write_text(AS_TORCHRUN)
    job = start(tmp_path / "job.py", *SMALL, *flags, "--run", run, *data, cwd=tmp_path)
    deadline = time.monotonic() + 240
    while not (run / "last.state").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(int((tmp_path / "rank1").read_text()), signal.SIGKILL)  # not the one that writes the files
    stopped = job.end(None)
    assert stopped.returncode != 0
    assert "Signal 9 (SIGKILL)" in stopped.stderr
    saved = load_state(run / "last.state").step
    assert 0 < saved < 300
    assert train(*flags, "--steps", saved + 1, "--run", run, *data, "--resume") == 0
    assert load_state(run / "last.state").step == saved + 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_images_without_annotations_and_classes_without_images_train_and_evaluate(tmp_path, capfd, split):
    data = small_data(tmp_path)
    number = data.index(f"--data.{split}.annotations") + 1
    content = json.loads(Path(data[number]).read_text())
    content["annotations"] = []
    data[number] = str(tmp_path / "bare.json")
    Path(data[number]).write_text(json.dumps(content))
    flags = ["--workers", 0, *data]
    assert train("--steps", 2, "--run", tmp_path / "run", *flags) == 0, capfd.readouterr().err
    weights = load(tmp_path / "run" / "last.safetensors").weights
    assert all(torch.isfinite(value).all() for value in weights.values())
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert scores["segm"]["AP"] == (-1 if split == "val" else pytest.approx(0, abs=0.1))
    arguments = ["--weights", tmp_path / "run" / "best.safetensors", "--device", "cpu", *flags]
    assert status(solov2.eval.main, *arguments) == 0, capfd.readouterr().err
