"""When a run ends before its steps are made, on a clock of our own: by --minutes, by --patience, and resumed."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.data.batches import Batch, Target
from common.errors import UserError
from common.run import runlog, training
from common.run.checkpoint import Checkpoint
from common.run.optimization import MovingAverage, lr_factor
from common.run.resume import load_state
from common.run.settings import Optimizer, Schedule, Training
from common.run.training import Trainer
from tests.running import logged_steps

PICTURES = 4


class Clock:
    """Stands still but for what a step or an evaluation adds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Line(nn.Module):
    """One number that follows the pictures; each step takes some seconds, and may be the last before a kill."""

    def __init__(self, clock: Clock, seconds: float, killed_at: int = 0):
        super().__init__()
        torch.manual_seed(0)
        self.clock, self.seconds, self.killed_at, self.steps = clock, seconds, killed_at, 0
        self.layer = nn.Linear(1, 1, bias=False)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.steps += 1
        if self.steps == self.killed_at:
            raise UserError("killed")
        self.clock.now += self.seconds
        return {"square": ((self.layer.weight - batch.images.float().mean() / 255) ** 2).mean()}


class Pictures:
    """Four grey squares."""

    def __init__(self) -> None:
        self.dataset: Any = SimpleNamespace(sizes=np.full((PICTURES, 2), 8, np.int32))

    def __len__(self) -> int:
        return PICTURES

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Target]:
        nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 8, 8, dtype=torch.bool))
        return torch.full((3, 8, 8), 40 * key[1], dtype=torch.uint8), nothing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    own = Clock()
    monkeypatch.setattr(training, "time", own)
    monkeypatch.setattr(runlog, "open_board", lambda run, step: None)  # which takes longer than all the steps
    return own


def fit(
    clock: Clock, run: Path, scores: Sequence[float] = (), seconds: float = 1.0, killed_at: int = 0, **settings: Any
) -> Trainer:
    """A run of two steps an epoch, evaluated after each; an evaluation takes two seconds."""
    model, left = Line(clock, seconds, killed_at), list(scores)

    def evaluate(_: Any) -> training.Metrics:
        clock.now += 2
        return {"segm": {"AP": left.pop(0) if left else 0.0}}

    run.mkdir(exist_ok=True)
    trainer = Trainer(
        model,  # type: ignore[arg-type]
        Pictures(),
        1,
        Training(batch_size=2, workers=0, save_every=3, **settings),
        Optimizer(lr=0.1, ema=0.5),
        Schedule(name="cosine", warmup=20),
        run,
        lambda module: Checkpoint("solov2", {}, ("a",), (1,), module.state_dict()),
        evaluate,
        ("segm", "AP"),
    )
    if killed_at:
        with pytest.raises(UserError, match="killed"):
            trainer.fit()
    else:
        trainer.fit()
    return trainer


def assert_same(one: Path, other: Path) -> None:
    first, second = load_state(one / "last.state"), load_state(other / "last.state")
    assert (first.step, first.best, first.best_step, first.stale) == (
        second.step,
        second.best,
        second.best_step,
        second.stale,
    )
    for name, value in first.model.items():
        assert torch.equal(value, second.model[name])
    assert [(line["step"], line["lr"], line["loss"]) for line in logged_steps(one)] == [
        (line["step"], line["lr"], line["loss"]) for line in logged_steps(other)
    ]


def test_minutes_plan_the_steps_that_there_is_time_for_and_the_schedule_ends_with_them(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(clock, tmp_path / "run", steps=400, minutes=1, evaluate_every=0)  # a second each: 60 of 400
    said = capsys.readouterr().out
    assert said.startswith("--minutes 1 say when training ends, at the latest after step 400\n")
    assert "after 10 steps: 1 s a step, evaluations apart; --minutes 1 are time for 60 of 400 steps; " in said
    assert "the schedule follows; 0:00:50 h to go" in said
    assert "GiB" in said
    rates = [line["lr"] / 0.1 for line in logged_steps(tmp_path / "run")]
    assert len(rates) == 60
    planned, shorter = Schedule(name="cosine", warmup=20), Schedule(name="cosine", warmup=3)  # 20 * 60 / 400
    assert rates[:10] == pytest.approx([lr_factor(step, 2, 400, planned) for step in range(10)])
    assert rates[10:] == pytest.approx([lr_factor(step, 2, 60, shorter) for step in range(10, 60)])
    assert rates[-1] < 0.001


def test_where_time_suffices_nothing_changes(clock: Clock, tmp_path: Path) -> None:
    fit(clock, tmp_path / "timed", steps=30, minutes=2, evaluate_every=0)
    fit(clock, tmp_path / "free", steps=30, evaluate_every=0)
    assert_same(tmp_path / "timed", tmp_path / "free")


def test_drops_come_as_much_sooner_as_a_run_is_shorter() -> None:
    drops = Schedule(name="step", milestones=[8, 11], warmup=100, warmup_ratio=0.0)
    for step in (5, 40, 159, 160, 219, 220):  # a fifth of 1,200 steps in 12 epochs: drops after 160 and 220
        expected = min(1, step / 20) * 0.1 ** ((step >= 160) + (step >= 220))
        assert lr_factor(step, 100, 240, drops, 0.2) == pytest.approx(expected)


def test_a_run_whose_time_is_over_says_so_and_is_finished(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, settings = tmp_path / "run", {"steps": 400, "evaluate_every": 0}
    fit(clock, run, minutes=1, killed_at=31, **settings)
    fit(clock, run, minutes=1, seconds=3.0, resume=True, **settings)  # the machine has other things to do
    assert "--minutes 1 are over: the run ends after step 41 of 60" in capsys.readouterr().out
    assert fit(clock, run, minutes=1, resume=True, **settings).step == 41
    assert fit(clock, run, minutes=2, resume=True, **settings).step == 41 + 55  # 63 seconds and a score's are gone


def test_evaluations_are_reckoned_with_once_their_time_is_known(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(clock, tmp_path / "run", steps=400, minutes=1, evaluate_every=47)  # of 200 epochs; of 30 it is every 7
    said = capsys.readouterr().out
    assert said.startswith("--minutes 1 say when training ends, at the latest after step 400\n")
    assert "after 10 steps: 1 s a step, evaluations apart; --minutes 1 are time for 60 of 400" in said
    assert "after 14 steps: 1.14 s a step, evaluations included; --minutes 1 are time for 52 of 400" in said
    assert said.count("of 400 steps;") == 3  # the first score told of two seconds; every 6 epochs they are more often
    assert load_state(tmp_path / "run/last.state").step == 51


def test_a_machine_that_slows_down_is_planned_with_anew_after_each_score(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit(clock, run, steps=400, minutes=1, evaluate_every=20, killed_at=24)
    fit(clock, run, steps=400, minutes=1, evaluate_every=20, seconds=2.0, resume=True)
    rates = [line["lr"] / 0.1 for line in logged_steps(run)]
    assert "are over" not in capsys.readouterr().out
    assert len(rates) < 45
    assert rates[-1] < 0.02  # the cosine has come to its end all the same


def test_an_average_of_weights_is_over_fewer_steps_where_there_are_fewer() -> None:
    model = nn.Linear(1, 1, bias=False)
    whole, half = MovingAverage(model, 0.9), MovingAverage(model, 0.9)  # type: ignore[arg-type]
    before = model.weight.item()
    nn.init.constant_(model.weight, before + 1)
    whole.update(model, 1000)  # type: ignore[arg-type]
    half.update(model, 1000, 0.5)  # type: ignore[arg-type]
    assert whole.model.weight.item() - before == pytest.approx(0.1)  # type: ignore[operator, union-attr]
    assert half.model.weight.item() - before == pytest.approx(0.2)  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("killed_at", [5, 14, 31])
def test_a_killed_run_with_minutes_goes_on_by_the_plan_that_it_had(
    clock: Clock, tmp_path: Path, killed_at: int
) -> None:
    settings: dict[str, Any] = {"steps": 400, "minutes": 1, "evaluate_every": 0}
    fit(clock, tmp_path / "whole", **settings)
    fit(clock, tmp_path / "killed", killed_at=killed_at, **settings)
    speed = 1.0 if killed_at < 10 else 0.7  # before ten steps there is no plan; afterwards speed changes nothing
    fit(clock, tmp_path / "killed", seconds=speed, resume=True, **settings)
    if killed_at > 10:
        assert_same(tmp_path / "whole", tmp_path / "killed")
    assert load_state(tmp_path / "killed/last.state").step == 60


SCORES = [0.0, 0.0, 0.0, 0.3, 0.2, 0.5, 0.1, 0.5, 0.4, 0.9]


@pytest.mark.parametrize("killed_at", [0, 9, 16])
def test_patience_ends_a_run_at_the_same_step_killed_or_not(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], killed_at: int
) -> None:
    run = tmp_path / "run"
    fit(clock, run, SCORES, killed_at=killed_at, steps=40, patience=3)
    if killed_at:
        done = load_state(run / "last.state").step // 2
        fit(clock, run, SCORES[done:], steps=40, patience=3, resume=True)
    assert (
        "--patience 3: no score above the 0.5 of step 12: the run ends after step 18 of 40" in capsys.readouterr().out
    )
    assert load_state(run / "last.state").step == 18
    assert fit(clock, run, [0.9], steps=40, patience=3, resume=True).step == 18  # it has ended
    assert fit(clock, run, [0.9] * 11, steps=40, patience=20, resume=True).step == 40  # but not for more patience


def test_without_patience_a_run_goes_on(clock: Clock, tmp_path: Path) -> None:
    assert fit(clock, tmp_path / "run", [0.5], steps=20).step == 20
