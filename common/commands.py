"""What train.py and eval.py of all packages share: processes and devices, data sets, the run's folder, the scores."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import nn
from torchvision.transforms import v2

from common import shapes
from common.checkpoint import Checkpoint, write_text
from common.coco import CocoDataset
from common.configuration import to_dict, to_yaml
from common.distributed import barrier, is_main
from common.errors import UserError
from common.evaluation import Evaluation, evaluate_instances, examples
from common.loader import TrainingSet, mix
from common.report import write_training_report
from common.settings import Data, Images, Optimizer, Schedule, Training
from common.training import DTYPES, Metrics, Trainer

EXAMPLES_IN_REPORT = 16


class Config(Protocol):
    """The sections that every package's configuration has."""

    variant: str
    training: Training
    data: Data
    optimizer: Optimizer
    schedule: Schedule


def run(main: Callable[[], None]) -> None:
    """Run a command; a user's mistake is one line on the terminal and exit status 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


def start(settings: Training) -> torch.device:
    """Join the processes that torchrun started, seed, and take this process's device."""
    device = choose_device(settings.device)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(mix(settings.seed))
    return device


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name}: not to be had here ({str(error).splitlines()[0]}); try --device cpu"
        ) from error
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    return device


def autocast(device: torch.device, precision: str) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def open_dataset(data: Data, split: shapes.Split, settings: Training) -> CocoDataset:
    """The training or validation set that the configuration names; without annotations, the built-in one."""
    named: Images = data.train if split == "train" else data.val
    limit = settings.limit or None
    keep_empty = data.keep_empty or split == "val"
    if named.annotations:
        return CocoDataset(named.images, named.annotations, limit=limit, keep_empty=keep_empty)
    if named.images:
        raise UserError(f"--data.{split}.images needs --data.{split}.annotations too")
    if is_main():
        shapes.ensure(split, data.seed)  # one process draws, the others find it done
    barrier()
    folder = shapes.ensure(split, data.seed)
    return CocoDataset([folder.images], [folder.instances], limit=limit, keep_empty=keep_empty)


def run_folder(package: str, config: Config) -> Path:
    return Path(config.training.run or Path("runs") / package / config.variant)


def train(
    package: str,
    config: Config,
    model: nn.Module,
    class_names: Sequence[str],
    transforms: v2.Transform,
    training_data: CocoDataset,
    validation_data: CocoDataset,
    divisor: int,
) -> None:
    """Train, evaluate and report; the run's folder holds everything afterwards."""
    settings, folder = config.training, run_folder(package, config)
    device = next(model.parameters()).device
    if validation_data.class_names != training_data.class_names:
        raise UserError(
            "the training and validation sets have different classes: "
            f"{list(training_data.class_names)} and {list(validation_data.class_names)}"
        )
    if is_main():
        _claim(folder, settings.resume)
        write_text(folder / "config.yaml", to_yaml(config))
    barrier()
    latest: list[Evaluation] = []

    def describe(module: nn.Module) -> Checkpoint:
        ids = training_data.category_ids
        return Checkpoint(package, to_dict(config), tuple(class_names), ids, module.state_dict())

    def evaluate(module: nn.Module) -> Metrics:
        with autocast(device, settings.precision):
            latest[:] = [evaluate_instances(module, validation_data, settings.batch_size, settings.workers)]
        return {kind: dict(scores) for kind, scores in latest[0].metrics.items()}

    training_set = TrainingSet(training_data, transforms, settings.seed)
    trainer = Trainer(
        model,
        training_set,
        divisor,
        settings,
        config.optimizer,
        config.schedule,
        folder,
        describe,
        evaluate,
        decisive=("segm", "AP"),
    )
    trained = trainer.fit().eval()
    if not latest:  # resumed after the end
        trainer.metrics = evaluate(trained)
    if is_main():
        write_scores(folder, trainer.metrics)
        if settings.report:
            shown = examples(trained, validation_data, EXAMPLES_IN_REPORT)
            report = folder / "report.html"
            write_training_report(
                report,
                folder / "log.jsonl",
                metrics=trainer.metrics,
                details=latest[0].details["segm"],
                examples=shown,
                title=f"{package} {config.variant}",
                config=to_dict(config),
            )
            print(f"report: {report.resolve()}")
        print(f"weights: {(folder / 'best.safetensors').resolve()}")


def evaluate(package: str, config: Config, model: nn.Module, dataset: CocoDataset, device: torch.device) -> None:
    """Print the score table; write metrics.json and the predictions in COCO's format."""
    settings, folder = config.training, run_folder(package, config)
    with autocast(device, settings.precision):
        evaluation = evaluate_instances(model, dataset, settings.batch_size, settings.workers)
    if is_main():
        write_scores(folder, evaluation.metrics)
        write_text(folder / "predictions.json", json.dumps(evaluation.detections))
        print(f"written: {folder / 'metrics.json'}, {folder / 'predictions.json'}")


def weights_to_evaluate(package: str, variants: Sequence[str], arguments: Sequence[str]) -> Path:
    """The file that --weights names, or best.safetensors of the run that --run or the variant names."""
    options = dict(pairwise(arguments))
    options |= dict(word.split("=", 1) for word in arguments if word.startswith(("--weights=", "--run=")))
    if "--weights" in options:
        return Path(options["--weights"])
    variant = arguments[0] if arguments and not arguments[0].startswith("-") else variants[0]
    path = Path(options.get("--run", Path("runs") / package / variant)) / "best.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no such file; train first (python train.py), or name a checkpoint with --weights")
    return path


def write_scores(folder: Path, metrics: Metrics) -> None:
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    names = list(dict.fromkeys(name for scores in metrics.values() for name in scores))
    table = Table()
    for title in ("", *names):
        table.add_column(title, justify="right")
    for kind, scores in metrics.items():
        table.add_row(kind, *(_shown(scores.get(name)) for name in names))
    Console(width=max(100, 9 * len(names))).print(table)


def _shown(value: Any) -> str:
    return "" if value is None else "-" if value == -1 else f"{value:.3f}"


def _claim(folder: Path, resume: bool) -> None:
    """A new run must not mix its files with an old one's."""
    if folder.exists() and not resume:
        for name in (
            "log.jsonl",
            "last.state",
            "last.safetensors",
            "best.safetensors",
            "metrics.json",
            "report.html",
        ):
            (folder / name).unlink(missing_ok=True)
        for events in folder.glob("events.out.tfevents.*"):
            events.unlink()
    folder.mkdir(parents=True, exist_ok=True)
