"""Training as a user runs it: the same weights however it is interrupted, resumed, spread or loaded."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from common.run.checkpoint import load
from common.run.resume import load_state
from maskworks import shapes
from solov2.train import main
from tests.running import logged_steps, python, start

ROOT = Path(__file__).parents[2]
SMALL = shlex.split(
    "--model.fpn-channels 32 --model.tower-channels 32 --model.tower-depth 1 --augment.long-side 96 "
    "--augment.short-sides 96 --test.long-side 96 --test.short-side 96 --batch-size 4 --no-report --device cpu"
)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> list[str]:
    cache = tmp_path_factory.mktemp("shapes")
    flags = []
    for split, count in (("train", 10), ("val", 4)):
        folder = shapes.ensure(split, seed=3, count=count, cache=cache)
        flags += [f"--data.{split}.images", str(folder.images), f"--data.{split}.annotations", str(folder.instances)]
    return flags


def command(data: list[str], run: Path, *flags: str) -> list[str]:
    return ["-m", "solov2.train", "--run", str(run), *SMALL, *data, *flags]


def train(data: list[str], run: Path, *flags: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    return python(*command(data, run, *flags), cwd=run.parent, status=status)


def assert_same_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    first, second = load(one / "last.safetensors").weights, load(other / "last.safetensors").weights
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=tolerance, atol=tolerance)


EXACT = ["--steps", "7", "--epochs", "3", "--accumulate", "2", "--optimizer.ema", "0.9"]


@pytest.fixture(scope="session")
def uninterrupted(data, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(data, run, *EXACT, "--workers", "0")
    return run


def test_a_run_leaves_everything_it_promises(uninterrupted):
    for name in ("config.yaml", "log.jsonl", "last.safetensors", "best.safetensors", "last.state", "metrics.json"):
        assert (uninterrupted / name).stat().st_size > 0, name
    assert list(uninterrupted.glob("events.out.tfevents.*"))
    logged = logged_steps(uninterrupted)
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6, 7]
    assert {"epoch", "loss", "mask", "category", "lr", "images_per_second"} <= logged[0].keys()
    assert set(json.loads((uninterrupted / "metrics.json").read_text())) == {"segm", "bbox"}


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(data, uninterrupted, tmp_path):
    train(data, tmp_path / "run", *EXACT, "--workers", "2")
    assert_same_weights(uninterrupted, tmp_path / "run")


def test_another_seed_gives_other_weights(data, uninterrupted, tmp_path):
    train(data, tmp_path / "run", *EXACT, "--workers", "0", "--seed", "1")
    with pytest.raises(AssertionError):
        assert_same_weights(uninterrupted, tmp_path / "run")


def test_a_killed_and_resumed_run_has_the_weights_of_one_never_killed(data, uninterrupted, tmp_path):
    run, flags = tmp_path / "run", [*EXACT, "--save-every", "1"]
    program = start(*command(data, run, *flags, "--workers", "1"), cwd=tmp_path)
    wait_for_step(run, 4)
    os.kill(program.processes[0], signal.SIGKILL)
    program.end(-signal.SIGKILL)
    saved = load_state(run / "last.state").step
    assert 3 <= saved < 7
    done = train(data, run, *flags, "--workers", "2", "--resume")
    assert "workers: 1 before, 2 now" in done.stdout
    assert done.stdout.count(" before, ") == 1
    assert_same_weights(uninterrupted, run)
    assert [(line["step"], line["loss"]) for line in logged_steps(run)] == [
        (line["step"], line["loss"]) for line in logged_steps(uninterrupted)
    ]


def test_ctrl_c_saves_and_says_how_to_go_on(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    program = start(*command(data, run, *EXACT, "--workers", "0"), cwd=tmp_path)
    wait_for_step(run, 2)
    os.kill(program.processes[0], signal.SIGINT)
    assert "--resume" in program.end(2).stderr.splitlines()[-1]
    train(data, run, *EXACT, "--workers", "0", "--resume")
    assert_same_weights(uninterrupted, run)


def test_a_finished_run_that_is_resumed_is_scored_and_reported_again(data, uninterrupted, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "report.html").unlink(missing_ok=True)
    train(data, run, *EXACT, "--workers", "0", "--resume", "--report")
    assert (run / "report.html").exists()
    assert (run / "metrics.json").read_text() == (uninterrupted / "metrics.json").read_text()
    assert_same_weights(uninterrupted, run)


def wait_for_step(run: Path, step: int) -> None:
    log, deadline = run / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_text().count("\n") >= step):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_give_the_weights_of_one_with_the_same_global_batch(data, tmp_path):
    flags = ["--steps", "3", "--epochs", "3", "--workers", "0", "--optimizer.name", "sgd", "--optimizer.lr", "0.01"]
    train(data, tmp_path / "alone", *flags)
    python(*command(data, tmp_path / "pair", *flags), cwd=tmp_path, processes=2)
    assert_same_weights(tmp_path / "alone", tmp_path / "pair", tolerance=1e-5)
    scores = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("alone", "pair")]
    assert scores[0] == scores[1]


class StopsAfter:
    """A callback that ends a run as a machine that fails does: nothing more is saved."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, step: int, values: dict[str, float]) -> None:
        if step > self.step:
            raise ConnectionError

    def on_evaluate(self, step: int, metrics: object) -> bool:
        return False


def test_a_run_of_one_process_goes_on_with_two_on_the_same_batches(data, tmp_path):
    """The weights are those of one process but for the order of sums; each step has the same loss."""
    flags = ["--steps", "3", "--epochs", "3", "--workers", "0", "--optimizer.name", "sgd", "--optimizer.lr", "0.01"]
    flags += ["--save-every", "1"]
    main(command(data, tmp_path / "alone", *flags)[2:])
    with pytest.raises(ConnectionError):
        main(command(data, tmp_path / "run", *flags)[2:], callbacks=[StopsAfter(1)])
    assert load_state(tmp_path / "run/last.state").step == 1
    python(*command(data, tmp_path / "run", *flags, "--resume"), cwd=tmp_path, processes=2)
    assert_same_weights(tmp_path / "alone", tmp_path / "run", tolerance=1e-5)
    losses = [[line["loss"] for line in logged_steps(tmp_path / name)] for name in ("alone", "run")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("saved", [False, True])
def test_a_worker_of_a_changing_cluster_goes_on_where_there_is_something_to(tmp_path, saved):
    (tmp_path / "python").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    if saved:
        (tmp_path / "last.state").touch()
    line = ["bash", ROOT / "scripts/cluster/worker.sh", "solov2", tmp_path, "small", "--batch-size", "96"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.split()
    expected = ["-m", "solov2.train", "small", "--batch-size", "96", "--run", str(tmp_path)]
    assert said == expected + ["--resume"] * saved


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(data, tmp_path):
    flags = ["--steps", "9", "--workers", "0", "--optimizer.lr", "1e30", "--schedule.warmup", "1"]
    done = train(data, tmp_path / "run", *flags, status=2)
    last = done.stderr.strip().splitlines()[-1]
    assert "not finite" in last
    assert ".png" in last


def test_steps_whose_loss_is_not_finite_can_be_skipped(data, tmp_path):
    flags = ["--steps", "9", "--workers", "0", "--optimizer.lr", "1e30", "--schedule.warmup", "1"]
    train(data, tmp_path / "run", *flags, "--not-finite", "skip")
    lines = logged_steps(tmp_path / "run")
    assert len(lines) == 9
    assert any("skipped" in line for line in lines)
    assert all(math.isfinite(value) for line in lines for value in line.values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_train_and_evaluate(data, tmp_path, precision):
    train(data, tmp_path / "run", "--steps", "2", "--workers", "0", "--precision", precision)
    assert all(math.isfinite(line["loss"]) for line in logged_steps(tmp_path / "run"))
    weights = load(tmp_path / "run" / "last.safetensors").weights
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights.values())


def test_a_second_run_moves_the_first_aside(data, uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    done = train(data, tmp_path / "run", "--steps", "1", "--workers", "0")
    assert "is now in" in done.stdout
    assert (tmp_path / "run-1" / "best.safetensors").exists()
    assert len(logged_steps(tmp_path / "run")) == 1
