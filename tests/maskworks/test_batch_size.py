"""--batch-size auto: what fits is found by doubling, and a command starts anew; a processor says what a step costs."""

import sys
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import solov2
from common.data.batches import Batch, Target
from common.errors import UserError
from common.run.settings import Optimizer, Training
from maskworks import training
from maskworks.command_line.variants import configure
from maskworks.training import batch_size
from maskworks.training.batch_size import BatchSizeFound, fit_batch_size, largest_that_fits


class Hungry(nn.Module):
    """Has memory for so many pictures of so many pixels at once."""

    def __init__(self, room: int):
        super().__init__()
        self.weight, self.room, self.tried = nn.Parameter(torch.zeros(1)), room, []
        self.sizes: list[tuple[int, ...]] = []

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        self.sizes.append(tuple(batch.images.shape))
        if len(batch.targets) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"loss": self.weight.sum()}


class Items:
    """Forty pictures, the 7th of which is the largest and the 9th the fullest; the third epoch's are larger."""

    def __init__(self) -> None:
        sizes = np.full((40, 2), 20, np.int32)
        sizes[7] = 30
        counts = np.eye(40, dtype=np.int64)[9] * 5
        self.dataset = SimpleNamespace(sizes=sizes, counts=lambda: (counts, counts))

    def __len__(self) -> int:
        return 40

    def __getitem__(self, key: tuple[int, int]) -> Any:
        side = int(self.dataset.sizes[key[1], 0]) + (8 if key[0] == 2 else 0)
        count = 5 if key[1] == 9 else 1
        empty = torch.zeros(count, side, side, dtype=torch.bool)
        return torch.zeros(3, side, side, dtype=torch.uint8), Target(torch.zeros(count, 4), torch.zeros(count), empty)


@pytest.fixture(name="probed")
def _probed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(batch_size, "MEMORY", ("cpu",))
    yield


@pytest.mark.parametrize(("room", "accumulate", "found"), [(6, 1, 4), (7, 2, 8), (40, 1, 32), (2, 1, 2)])
def test_the_largest_power_of_two_that_fits_is_found(room: int, accumulate: int, found: int, probed: None) -> None:
    model: Any = Hungry(room)
    settings = Training(batch_size=16, accumulate=accumulate, fit_batch_size=True)
    with pytest.raises(BatchSizeFound) as said:
        fit_batch_size(model, Items(), 1, settings, Optimizer())  # type: ignore[arg-type]
    assert said.value.size == found
    assert {size[1:] for size in model.sizes} == {(3, 38, 38)}  # the largest picture, as large as augmentation makes it


def test_what_does_not_fit_at_all_and_what_one_process_cannot_say_are_refused(
    probed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = Hungry(1)
    with pytest.raises(UserError, match="not even 2 of the largest pictures fit"):
        fit_batch_size(model, Items(), 1, Training(fit_batch_size=True), Optimizer())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--resume goes on with the size that the run had"):
        fit_batch_size(model, Items(), 1, Training(fit_batch_size=True, resume=True), Optimizer())  # type: ignore[arg-type]
    monkeypatch.setattr(batch_size, "process_count", lambda: 2)
    with pytest.raises(UserError, match="--batch-size auto: one process tells of itself; name the size"):
        fit_batch_size(model, Items(), 1, Training(fit_batch_size=True), Optimizer())  # type: ignore[arg-type]
    fit_batch_size(model, Items(), 1, Training(), Optimizer())  # type: ignore[arg-type] # nobody asked


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    def step(count: int) -> None:
        raise RuntimeError(f"{count} pictures make no sense")

    with pytest.raises(RuntimeError, match="2 pictures"):
        largest_that_fits(step, 2, 8)


def test_a_processor_says_what_a_step_costs_and_nothing_of_the_model_changes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model: Any = Hungry(99)
    settings = Training(batch_size=8, accumulate=2, fit_batch_size=True)
    fit_batch_size(model, Items(), 1, settings, Optimizer(lr=1.0))  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert said.startswith("--batch-size auto: on cpu a step takes as much longer as it has more pictures; one of 8 of")
    assert (settings.batch_size, settings.fit_batch_size) == (8, False)
    assert model.weight.item() == 0
    assert model.sizes == []  # it was a copy's


def test_auto_is_a_batch_size_on_a_command_line_and_the_command_starts_anew_with_what_it_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, bool, float]] = []

    def main(words: Sequence[str]) -> None:
        config = configure(solov2.VARIANTS, words)
        seen.append((config.training.batch_size, config.training.fit_batch_size, config.optimizer.lr))
        if config.training.fit_batch_size:
            raise BatchSizeFound(32)

    monkeypatch.setattr(sys, "argv", ["train.py", "--batch-size", "auto", "--optimizer.lr", "0.5"])
    training.run(main)
    assert seen == [(8, True, 0.5), (32, False, 0.5)]
    assert configure(solov2.VARIANTS, ["--batch_size=auto"]).training.fit_batch_size
    with pytest.raises(UserError, match="--batch-size auto: expected a whole number"):
        configure(solov2.VARIANTS, ["--batch-size", "auto"], evaluating=True)
