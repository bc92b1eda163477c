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
from common.distributed import barrier, is_main, process_count
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
    if validation_data.class_names != training_data.class_names:
        raise UserError(
            "the training and validation sets have different classes: "
            f"{list(training_data.class_names)} and {list(validation_data.class_names)}"
        )
    if is_main():
        if not settings.resume:
            move_aside(folder)
        write_text(folder / "config.yaml", to_yaml(config))
    barrier()
    latest: list[Evaluation] = []

    def describe(module: nn.Module) -> Checkpoint:
        ids = training_data.category_ids
        return Checkpoint(package, to_dict(config), tuple(class_names), ids, module.state_dict())

    def evaluate(module: nn.Module) -> Metrics:
        latest[:] = [score(module, validation_data, settings)]
        return {kind: dict(scores) for kind, scores in latest[0].metrics.items()}

    trainer = Trainer(
        model,
        TrainingSet(training_data, transforms, settings.seed),
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
    metrics = trainer.metrics if latest else evaluate(trained)  # a run resumed after its end has none yet
    if is_main():
        write_scores(folder, metrics)
        if settings.report:
            write_report(folder, f"{package} {config.variant}", config, trained, validation_data, latest[0])
        print(f"weights: {(folder / 'best.safetensors').resolve()}")


def score(model: nn.Module, dataset: CocoDataset, settings: Training) -> Evaluation:
    share = max(1, settings.batch_size // (process_count() * settings.accumulate))  # what fits when training fits
    with autocast(next(model.parameters()).device, settings.precision):
        return evaluate_instances(model, dataset, share, settings.workers)


def write_report(
    folder: Path, title: str, config: Config, model: nn.Module, dataset: CocoDataset, evaluation: Evaluation
) -> None:
    write_training_report(
        folder / "report.html",
        folder / "log.jsonl",
        metrics=evaluation.metrics,
        details=evaluation.details["segm"],
        examples=examples(model, dataset, EXAMPLES_IN_REPORT),
        title=title,
        config=to_dict(config),
    )
    print(f"report: {(folder / 'report.html').resolve()}")


def evaluate(package: str, config: Config, model: nn.Module, dataset: CocoDataset) -> None:
    """Print the score table; write metrics.json and the predictions in COCO's format."""
    folder = run_folder(package, config)
    evaluation = score(model, dataset, config.training)
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


def move_aside(folder: Path) -> None:
    """A new run neither mixes its files with an old one's nor throws those away."""
    if not (folder / "log.jsonl").exists():
        return
    number = 1
    while (older := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    folder.rename(older)
    print(f"the run that was in {folder} is now in {older}; --resume would have gone on with it")
