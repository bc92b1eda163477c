"""One training loop for all models: torchrun/DDP, mixed precision, accumulation, EMA, exact resume.

- A run is a folder: config.yaml, log.jsonl, TensorBoard events, last.safetensors, best.safetensors, last.state.
- Everything random follows from (seed, epoch, index) or (seed, step), so going on from last.state is exact.
- The loop knows nothing of a model but `losses(batch)`, and nothing of scores but which number decides.
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.data.batches import Batch
from common.data.loader import Steps, Trainable, mix, steps_per_epoch, training_loader
from common.errors import UserError
from common.ops.precision import autocast
from common.run.callbacks import Callback
from common.run.checkpoint import Checkpoint, remove_unfinished, save
from common.run.configuration import UNPREFIXED, differences
from common.run.distributed import any_process, is_main, mean_over_processes, process_count, process_index
from common.run.model import Learner
from common.run.optimization import (
    MovingAverage,
    ParameterGroup,
    clip_gradients,
    load_optimizer,
    lr_factor,
    make_optimizer,
    set_learning_rate,
)
from common.run.resume import End, State, load_state, save_state
from common.run.runlog import Bar, RunLog, peak_memory
from common.run.settings import Optimizer, Schedule, Training

Metrics = dict[str, dict[str, Any]]  # {"segm": {"AP": ..}, ..}
MEASURED = 10  # steps, after which a run says how long it takes
LATELY = 100  # steps that say how fast the machine is
NOTHING_TIMED, STEPS_TIMED, ALL_TIMED = range(3)  # what the plan of a run's end knows; all: evaluations too


class Trainer:
    """A run: made, perhaps resumed, and then `fit`."""

    def __init__(
        self,
        model: Learner,
        training_set: Trainable,
        divisor: int,
        settings: Training,
        optimizer: Optimizer,
        schedule: Schedule,
        run: Path,
        checkpoint_of: Callable[[Learner], Checkpoint],
        evaluate: Callable[[Learner], Metrics],
        decisive: tuple[str, ...],
        parameter_group: ParameterGroup | None = None,
        callbacks: Sequence[Callback] = (),
    ):
        self.model, self.training_set, self.divisor = model, training_set, divisor
        self.settings, self.optimizer_settings, self.schedule = settings, optimizer, schedule
        self.run, self.checkpoint_of, self.evaluate, self.decisive = run, checkpoint_of, evaluate, decisive
        self.callbacks = callbacks if is_main() else ()
        self.device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, optimizer, parameter_group)
        self.average = MovingAverage(model, optimizer.ema) if optimizer.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.step, self.best, self.metrics = settings.start_step, -math.inf, Metrics()
        self.best_step, self.stale, self.seconds = 0, 0, 0.0
        self.timed, self.evaluation_seconds = NOTHING_TIMED, 0.0  # the seconds are the last evaluation's
        self.epoch_steps = steps_per_epoch(len(training_set), settings.batch_size)
        self.planned_steps = self.total_steps = settings.steps or settings.epochs * self.epoch_steps
        self.asked_end = End(self.planned_steps, settings.minutes, settings.patience)
        if self.total_steps < 1:
            raise UserError(f"--epochs {settings.epochs} --steps {settings.steps}: expected at least 1 of either")

    def fit(self) -> Learner:
        """Train to the end, or until the time is up or Ctrl-C; returns the model to use."""
        if self.settings.resume:
            self._resume()
        elif self.step:
            self._start_late()
        self.model.train()
        if self.settings.compile:
            self.model.compile()
        if is_main():
            print(self._end_in_words())
        computes_losses = _parallel(_Losses(self.model), self.device)
        log = RunLog(self.run, self.step) if is_main() else None
        interrupted = _Interruption()
        started, stopped = time.monotonic() - self.seconds, False
        took: list[float] = []  # seconds of each step
        with interrupted, Bar("training", self.total_steps, self.step, show=is_main()) as bar:
            batches = self._batches()
            while self.step < self.total_steps and not stopped:
                epoch, began = self.step // self.epoch_steps, time.monotonic()
                values = self._train_step(computes_losses, batches)
                self.step += 1
                took.append(time.monotonic() - began)
                self._tell(log, epoch, values | {"images_per_second": self.settings.batch_size / took[-1]})
                self.seconds = time.monotonic() - started
                minutes = self.settings.minutes
                if minutes and any_process(self.seconds > 60 * minutes, self.device) and self.step < self.total_steps:
                    self._end_here(f"--minutes {minutes:g} are over")
                bar.advance(note=f"loss {values.get('loss', math.nan):.3f}", total=self.total_steps)
                stopped = any_process(interrupted.seen, self.device)
                if due := not stopped and self._evaluation_due():
                    self._evaluate(log)
                    self.evaluation_seconds = time.monotonic() - started - self.seconds
                    self.seconds += self.evaluation_seconds
                if self.step < self.total_steps and (due if self.timed else len(took) >= MEASURED):
                    self._plan(median(took[-LATELY:]))
                if stopped or self.step % self.settings.save_every == 0 or self.step == self.total_steps:
                    self._save()
        if log:
            log.close()
        if stopped:
            raise UserError(f"interrupted at step {self.step}; add --resume to the same command to go on")
        return self.evaluated_model

    def _end_in_words(self) -> str:
        """When training ends, and which of the settings says so."""
        settings, schedule = self.settings, self.schedule
        if settings.minutes:
            return f"--minutes {settings.minutes:g} say when training ends, at the latest after step {self.total_steps}"
        epochs = f"--epochs {settings.epochs}"
        if settings.steps:
            passes = self.total_steps / self.epoch_steps
            return f"--steps {settings.steps} says when training ends, after {passes:.4g} epochs; {epochs} doesn't"
        fixed = schedule.milestones and schedule.name == "step" and schedule.unit == "steps"
        drops = f"; the learning rate still drops after steps {schedule.milestones}" if fixed else ""
        return f"{epochs} says when training ends, after step {self.total_steps}{drops}"

    def _plan(self, seconds: float) -> None:
        """Say how long the run takes; with --minutes end it where they will be over, anew after each evaluation."""
        minutes, planned, ended = self.settings.minutes, self.planned_steps, self.total_steps
        if self.timed == ALL_TIMED and not minutes:
            return
        every, unsure = self._epochs_between_scores(), self.timed < ALL_TIMED
        seconds += self.evaluation_seconds / (every * self.epoch_steps) if every else 0.0
        self.timed = ALL_TIMED if self.evaluation_seconds or not every else STEPS_TIMED
        measured = torch.tensor([seconds, self.seconds], device=self.device)
        seconds, spent = mean_over_processes(measured).tolist()  # so that all processes plan the same
        scores = "included" if self.evaluation_seconds else "apart"
        said = f"after {self.step} steps: {seconds:.3g} s a step, evaluations {scores}"
        if minutes:
            self.total_steps = min(planned, self.step + max(1, int((60 * minutes - spent) / seconds)))
            said += f"; --minutes {minutes:g} are time for {self.total_steps} of {planned} steps; the schedule follows"
        if is_main() and (unsure or self.total_steps != ended):
            left = timedelta(seconds=round(seconds * (self.total_steps - self.step)))
            print(f"{said}; {left} h to go; {peak_memory(self.device)}")

    @property
    def _share(self) -> float:
        """How much of the planned run there is time for."""
        return self.total_steps / self.planned_steps

    def _epochs_between_scores(self) -> int:
        """As asked; in a run that --minutes shorten fewer, so that it has as many scores."""
        asked = self.settings.evaluate_every
        return max(1, round(asked * self._share)) if asked else 0

    def _end_here(self, why: str) -> None:
        if is_main():
            print(f"{why}: the run ends after step {self.step} of {self.total_steps}")
        self.total_steps, self.timed = self.step, ALL_TIMED

    @property
    def evaluated_model(self) -> Learner:
        return self.average.model if self.average else self.model

    def _batches(self) -> "Iterator[Batch | UserError]":
        settings = self.settings
        steps = Steps(
            self.training_set.dataset.sizes,
            settings.batch_size,
            settings.seed,
            self.step,
            self.planned_steps,
            settings.accumulate,
            process_index(),
            process_count(),
        )
        pin = self.device.type == "cuda"
        return iter(training_loader(self.training_set, steps, self.divisor, settings.workers, pin))

    def _train_step(self, computes_losses: nn.Module, batches: "Iterator[Batch | UserError]") -> dict[str, float]:
        settings = self.settings
        torch.manual_seed(mix(settings.seed, self.step, process_index()))  # for dropout and the like
        factor = lr_factor(self.step, self.epoch_steps, self.total_steps, self.schedule, self._share)
        set_learning_rate(self.optimizer, self.optimizer_settings.lr * factor)
        sums: dict[str, float] = {}
        skip = False
        for part in range(settings.accumulate):
            batch = next(batches)
            if isinstance(batch, UserError):
                raise batch
            parallel = computes_losses if isinstance(computes_losses, DistributedDataParallel) else None
            with parallel.no_sync() if parallel and part < settings.accumulate - 1 else nullcontext():
                with autocast(self.device, settings.precision):
                    losses: dict[str, Tensor] = computes_losses(batch.to(self.device))
                total = torch.stack(list(losses.values())).sum() / settings.accumulate
                self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
            terms = _as_numbers(losses)  # waits for the device: not before the backward pass is on its way
            if not all(map(math.isfinite, terms.values())):
                if settings.not_finite == "stop":
                    raise _not_finite(terms, batch)
                skip = True
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / settings.accumulate
        if skip:
            self.optimizer.zero_grad()
            return {"skipped": 1.0, "lr": self.optimizer_settings.lr * factor}
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.model, self.optimizer_settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update(self.model, self.step, self._share)
        return {"loss": sum(sums.values()), **sums, "lr": self.optimizer_settings.lr * factor}

    def _tell(self, log: RunLog | None, epoch: int, values: dict[str, float]) -> None:
        if log:
            log.step(self.step, epoch, values)
        for callback in self.callbacks:
            callback.on_step(self.step, values)

    def _evaluation_due(self) -> bool:
        epochs, rest = divmod(self.step, self.epoch_steps)
        every = self._epochs_between_scores()
        return self.step == self.total_steps or (bool(every) and rest == 0 and epochs % every == 0)

    def _evaluate(self, log: RunLog | None) -> None:
        model = self.evaluated_model.eval()
        self.metrics = self.evaluate(model)
        self.model.train()
        if log:
            log.metrics(self.step, (self.step - 1) // self.epoch_steps, self.metrics)
            score = _score_at(self.metrics, self.decisive)
            self.stale += self.best > 0  # a network that finds nothing yet isn't given up
            if score > self.best:
                self.best, self.best_step, self.stale = score, self.step, 0
                save(self.run / "best.safetensors", self.checkpoint_of(model))
        patience = self.settings.patience
        if any_process(log is not None and 0 < patience <= self.stale, self.device) and self.step < self.total_steps:
            self._end_here(f"--patience {patience}: no score above the {self.best:.4g} of step {self.best_step}")
        enough = [callback.on_evaluate(self.step, self.metrics) for callback in self.callbacks]
        if any_process(any(enough), self.device) and self.step < self.total_steps:
            self._end_here("a callback has seen enough")

    def _save(self) -> None:
        if not is_main():
            return
        save(self.run / "last.safetensors", self.checkpoint_of(self.evaluated_model))
        state = State(
            step=self.step,
            best=self.best,
            metrics=self.metrics,
            config=self._configuration(),
            model=self.model.state_dict(),
            average=self.average.model.state_dict() if self.average else None,
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            best_step=self.best_step,
            stale=self.stale,
            seconds=self.seconds,
            end=self.asked_end._replace(timed=self.timed, last_step=self.total_steps),
        )
        save_state(self.run / "last.state", state)

    def _configuration(self) -> dict[str, Any]:
        """As JSON gives it back; with the machine's settings, which a checkpoint leaves out."""
        settings = self.checkpoint_of(self.model).config | {UNPREFIXED: self.settings}
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(settings))
        return plain

    def _resume(self) -> None:
        path = self.run / "last.state"
        state = load_state(path)
        if is_main():
            for name in ("last.safetensors", "best.safetensors", "last.state"):
                remove_unfinished(self.run / name)
        changes = [line for line in differences(state.config, self._configuration()) if "resume" not in line]
        if changes and is_main():
            print("the configuration has changed since the run was saved:\n  " + "\n  ".join(changes))
        try:
            self.model.load_state_dict(state.model)
            load_optimizer(self.optimizer, state.optimizer)
            if self.average:
                self.average.model.load_state_dict(state.average or state.model)
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"{path}: does not fit the network or the optimizer of this configuration: {error}"
            ) from error
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        self.step, self.best, self.metrics = state.step, state.best, state.metrics
        self.best_step, self.stale, self.seconds = state.best_step, state.stale, state.seconds
        if state.end._replace(timed=NOTHING_TIMED, last_step=0) == self.asked_end:
            self.timed, self.total_steps = state.end.timed, state.end.last_step

    def _start_late(self) -> None:
        if not 0 < self.step < self.total_steps:
            raise UserError(f"--start-step {self.step}: expected a step of the run, which has {self.total_steps}")
        if is_main():
            where = f"step {self.step} (epoch {self.step // self.epoch_steps}) of {self.total_steps}"
            print(f"goes on at {where}; weights hold no state of an optimizer: its running averages start anew")


class _Losses(nn.Module):
    """Makes `losses` the forward pass, which is all that DDP looks at."""

    def __init__(self, model: Learner):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.losses(batch)


class _Interruption:
    """While it is entered, the first Ctrl-C only sets a flag; the second one is a KeyboardInterrupt again."""

    def __init__(self) -> None:
        self.seen = False
        self.heard = threading.current_thread() is threading.main_thread()  # no other one is told of signals

    def __enter__(self) -> None:
        if self.heard:
            self.previous = signal.signal(signal.SIGINT, self._notice)

    def __exit__(self, *_: object) -> None:
        if self.heard:
            signal.signal(signal.SIGINT, self.previous)

    def _notice(self, *_: object) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, self.previous)


def _parallel(module: nn.Module, device: torch.device) -> nn.Module:
    if process_count() == 1:
        return module
    return DistributedDataParallel(module, device_ids=[device.index] if device.type == "cuda" else None)


def _score_at(metrics: Metrics, path: Sequence[str]) -> float:
    """The score that stands at a path of keys; one that could not be computed is worse than any."""
    value: Any = metrics
    for key in path:
        value = value[key]
    return -math.inf if value is None else float(value)


def _as_numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    """The loss terms, each its mean over the processes, so that all processes see the same."""
    stacked = torch.stack([value.detach().float() for value in losses.values()])
    return dict(zip(losses, mean_over_processes(stacked).tolist(), strict=True))


def _not_finite(terms: dict[str, float], batch: Batch) -> UserError:
    images = ", ".join(target.name for target in batch.targets)
    listed = ", ".join(f"{name} {value}" for name, value in terms.items())
    return UserError(f"the loss is not finite ({listed}) on {images}; lower --optimizer.lr or check these images")
