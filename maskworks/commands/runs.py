"""What train.py and eval.py of all packages share: processes and devices, data sets, the run's folder, the scores."""

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from common.data.coco import CocoDataset, LabelledImages
from common.data.loader import Trainable, mix
from common.data.shards import folder_of
from common.errors import UserError
from common.files import digest_of, write_text
from common.metrics.coco import LIMIT, RECALL_LIMITS
from common.ops.precision import autocast
from common.run.callbacks import Callback, Run
from common.run.checkpoint import DIGEST, Checkpoint, fitting_together
from common.run.configuration import to_dict
from common.run.distributed import barrier, choose_device, is_main, process_count
from common.run.evaluation import Evaluation, evaluate_instances
from common.run.model import Learner
from common.run.optimization import ParameterGroup
from common.run.settings import Data, Optimizer, Schedule, Training
from common.run.training import Metrics, Trainer
from maskworks.command_line.variants import configure, refuse_another_network
from maskworks.command_line.yaml_files import to_yaml
from maskworks.commands.score_tables import print_classes, print_scores
from maskworks.picture_kinds import described
from maskworks.report.details import write_run_details
from maskworks.report.examples import Example, examples
from maskworks.report.mistakes import THRESHOLD, Mistakes, of_instances
from maskworks.report.training_pictures import write_training_pictures
from maskworks.shards.columns import kept
from maskworks.training.batch_size import fit_batch_size

EXAMPLES_IN_REPORT = 16
M = TypeVar("M", bound=Learner)
D = TypeVar("D", bound=LabelledImages)


class Config(Protocol):
    """The sections that every package's configuration has."""

    @property
    def variant(self) -> str: ...

    @property
    def training(self) -> Training: ...

    @property
    def data(self) -> Data: ...

    @property
    def optimizer(self) -> Optimizer: ...

    @property
    def schedule(self) -> Schedule: ...


class Evaluated(Protocol):
    """What scoring a model leaves."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def per_class(self) -> Mapping[str, Mapping[str, float]]: ...  # name of a score -> class name -> its value

    @property
    def precision(self) -> Mapping[str, NDArray[np.floating[Any]]]: ...  # class name -> precision at rising recall


@dataclass(frozen=True)
class Scoring:
    """How a package's models are scored: of instances by COCO's mAP, unless it says otherwise."""

    evaluate: Callable[..., Evaluated] = evaluate_instances
    """(model, data set, images at once, workers), and `limit` where it is given and `limited`"""
    examples: Callable[[Any, Any, Sequence[int]], list[Example]] = examples
    """(model, data set, numbers of images): pictures for the report."""
    mistakes: Callable[[Any, Any, float], Mistakes] = of_instances
    """(what `evaluate` left, data set, least score): what the report says the model takes for what."""
    decisive: tuple[str, ...] = ("segm", "AP")
    """Where in the metrics the score stands by which the best weights are kept."""
    threshold: float = THRESHOLD
    """What the report draws and counts of the predictions."""
    limited: bool = False
    """Whether it looks at so many detections only, --max-detections, and takes that as `limit`."""
    tiled: bool = False
    """Whether large pictures are cut where --data.tile says so."""


INSTANCES = Scoring(limited=True)
BOXES = Scoring(partial(evaluate_instances, kinds=("bbox",)), decisive=("bbox", "AP"), limited=True)  # without masks


def start(settings: Training) -> torch.device:
    """Join the processes that torchrun started, seed, and take this process's device."""
    device = choose_device(settings.device)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    torch.manual_seed(mix(settings.seed))
    return device


def build_network(network: Callable[[Any, tuple[str, ...]], M], config: Any, class_names: tuple[str, ...]) -> M:
    """The network that the settings describe."""
    with fitting_together("the command line"):
        return network(config, class_names)


def open_dataset(data: Data, split: Literal["train", "val"], settings: Training) -> CocoDataset:
    return open_as(partial(CocoDataset, read=kept), data, split, settings)


def open_as(kind: Callable[..., D], data: Data, split: Literal["train", "val"], settings: Training) -> D:
    """The training or validation set that the configuration names, as a data set of this kind."""
    images, annotations = files_of(data, split)
    return kind(images, annotations, limit=settings.limit or None, keep_empty=data.keep_empty or split == "val")


def files_of(data: Data, split: Literal["train", "val"]) -> tuple[list[str], list[str]]:
    """Image folders and annotation files."""
    named = data.train if split == "train" else data.val
    if not named.annotations:
        raise UserError(f"--data.{split}.images needs --data.{split}.annotations too")
    return named.images, named.annotations


def run_folder(package: str, config: Config) -> Path:
    return Path(config.training.run or Path("runs") / package / config.variant)


def train(
    package: str,
    config: Config,
    model: Learner,
    class_names: Sequence[str],
    training_set: Trainable,
    validation_data: LabelledImages,
    divisor: int,
    *,
    scoring: Scoring = INSTANCES,
    parameter_group: ParameterGroup | None = None,
    predicting: Sequence[str] = (),
    exports: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Run:
    """Train and evaluate; the run's folder holds everything afterwards.

    `predicting` is what predict.py needs beside weights and pictures; `exports` says whether export.py takes the model.
    """
    training_data = training_set.dataset
    refuse_different_classes(training_data, validation_data)
    refuse_unused_settings(config, scoring)
    fit_batch_size(model, training_set, divisor, config.training, config.optimizer)
    folder = prepare_run(package, config)
    describe_pictures(training_data, validation_data)
    describe_limits(config, validation_data)
    write_names(folder, training_data, validation_data)
    write_training_pictures(folder, training_set, config.training)
    latest: list[Evaluated] = []  # at most one: a list, as `evaluate` below fills it and this function reads it

    def checkpoint_of(module: Learner) -> Checkpoint:
        return Checkpoint(package, to_dict(config), tuple(class_names), training_data.category_ids, module.state_dict())

    def evaluate(module: Learner) -> Metrics:
        latest[:] = [score(module, validation_data, config.training, scoring)]
        return latest[0].metrics

    trainer = Trainer(
        model,
        training_set,
        divisor,
        config.training,
        config.optimizer,
        config.schedule,
        folder,
        checkpoint_of,
        evaluate,
        scoring.decisive,
        parameter_group,
        callbacks,
    )
    trained = trainer.fit().eval()
    metrics = trainer.metrics if latest else evaluate(trained)  # a run resumed after its end has none yet
    if not is_main():
        return Run(folder, reported=False)
    write_scores(folder, metrics, latest[0].per_class)
    if config.training.report:
        write_details(folder, f"{package} {config.variant}", trained, validation_data, latest[0], scoring)
    say_where(folder, next_commands(model, folder, validation_data.path(0).parent, predicting, exports))
    return Run(folder, config.training.report)


def say_where(folder: Path, commands: Iterable[str]) -> None:
    best = folder / "best.safetensors"
    print(f"weights: {best.resolve()}{DIGEST}{digest_of(best)}" if best.exists() else "no score: no best weights")
    print("\n".join(["to go on:", *commands]))


def next_commands(
    model: Learner, folder: Path, pictures: Path, predicting: Sequence[str], exports: bool
) -> Iterator[str]:
    """Lines that evaluate, predict and export with a run's weights, started in the way that this one was."""
    home = type(model).__module__.rpartition(".")[0]
    weights = ["--weights", str(folder / "best.safetensors")]
    wanted = {"eval": [], "predict": [str(pictures), *predicting, "--out", str(folder / "predictions")]}
    if folder_of(pictures / "any"):  # of a shard's pictures there are no files that predict could be given
        del wanted["predict"]
    if exports and find_spec(f"{home}.export"):
        wanted["export"] = ["--out", str(folder / "model.onnx")]
    program_path, package_folder = Path(sys.argv[0]), Path(str(sys.modules[home].__file__)).parent
    as_module = getattr(sys.modules["__main__"], "__spec__", None) is not None
    as_file = program_path.resolve() == package_folder / "train.py" and not as_module
    for name, more in wanted.items():
        program = [str(program_path.with_name(f"{name}.py"))] if as_file else ["-m", f"{home}.{name}"]
        yield f"  {shlex.join(['python', *program, *weights, *more])}"


def prepare_run(package: str, config: Config) -> Path:
    """The run's folder with config.yaml in it; an older run that was there is moved aside unless it goes on."""
    folder = run_folder(package, config)
    if is_main():
        if not config.training.resume:
            move_aside(folder)
        write_text(folder / "config.yaml", to_yaml(config))
    barrier()
    return folder


def write_names(folder: Path, training_data: LabelledImages, validation_data: LabelledImages) -> None:
    """train.txt and val.txt: which pictures a run learnt from, and which it was scored on."""
    if is_main():
        for name, data in (("train", training_data), ("val", validation_data)):
            write_text(folder / f"{name}.txt", "".join(f"{path}\n" for path in pictures_of(data)))


def pictures_of(data: LabelledImages) -> list[Path]:
    """Each once, also where there are several tiles of it."""
    return list(dict.fromkeys(data.path(index) for index in range(len(data))))


def describe_pictures(*datasets: LabelledImages) -> None:
    """Say how pictures that aren't plain RGB of 8 bits are read."""
    if is_main() and (line := described([path for data in datasets for path in pictures_of(data)])):
        print(line)


def describe_limits(config: Any, dataset: LabelledImages) -> None:
    """Say it where pictures hold more objects than the score looks at, or than the network answers with."""
    if not isinstance(dataset, CocoDataset) or not is_main():
        return
    test, scored = config.test, config.training.max_detections
    name = "max_instances" if hasattr(test, "max_instances") else "max_detections"  # GLIP's
    answered, flag = getattr(test, name, 0), f"--test.{name.replace('_', '-')}"
    of_class, of_all = dataset.counts()
    if crowded := int((of_class > scored).sum()):
        limit = f"and the score looks at {scored} of each: --max-detections {of_class.max()} looks at all"
        print(f"note: {crowded} of {len(dataset)} pictures hold up to {of_class.max()} objects of a class, {limit}")
    if answered and not config.data.tile and (cut := int((of_all > answered).sum())):
        limit = f"and the network answers with {answered} at most: {flag} {of_all.max()} allows all"
        print(f"note: {cut} of {len(dataset)} pictures hold up to {of_all.max()} objects, {limit}")


def refuse_unused_settings(config: Config, scoring: Scoring) -> None:
    """Stop at settings that nothing would look at."""
    limit, least = config.training.max_detections, max(RECALL_LIMITS) + 1
    if limit != LIMIT and (limit < least or not scoring.limited):
        expected = f"expected {least} or more" if scoring.limited else "these scores have no such limit; leave it out"
        raise UserError(f"--max-detections {limit}: {expected}")
    if getattr(config.data, "tile", 0) and not scoring.tiled:
        raise UserError(f"--data.tile {config.data.tile}: nothing is joined of tiles here; leave it out")


def refuse_other_classes(dataset: LabelledImages, class_names: Sequence[str]) -> None:
    """Stop if a data set does not have the classes (in their order) that a checkpoint was trained with."""
    if tuple(class_names) != dataset.class_names:
        raise UserError(
            f"{', '.join(map(str, dataset.annotation_files))}: its classes are not the checkpoint's; use data with "
            "the same classes in the same order of category ids, or train on this one. "
            f"Data: {list(dataset.class_names)}. Checkpoint: {list(class_names)}"
        )


def refuse_different_classes(training_data: LabelledImages, validation_data: LabelledImages) -> None:
    if validation_data.class_names != training_data.class_names:
        raise UserError(
            "the training and validation sets have different classes: "
            f"{list(training_data.class_names)} and {list(validation_data.class_names)}"
        )


def score(model: Learner, dataset: LabelledImages, settings: Training, scoring: Scoring = INSTANCES) -> Evaluated:
    at_once = max(1, settings.batch_size // (process_count() * settings.accumulate))  # what fits when training fits
    with autocast(next(model.parameters()).device, settings.precision):
        limit = {"limit": settings.max_detections} if scoring.limited else {}
        return scoring.evaluate(model, dataset, at_once, settings.workers, **limit)


def write_details(
    folder: Path, title: str, model: Learner, dataset: LabelledImages, evaluation: Evaluated, scoring: Scoring
) -> None:
    """What the report says beside the scores: the worst images, drawn, and the classes that are taken for others."""
    mistakes = scoring.mistakes(evaluation, dataset, scoring.threshold)
    examples = scoring.examples(model, dataset, mistakes.worst(EXAMPLES_IN_REPORT))
    write_run_details(folder, title, examples, mistakes, evaluation.per_class, evaluation.precision, scoring.threshold)


def evaluate(
    package: str, config: Config, model: Learner, dataset: LabelledImages, scoring: Scoring = INSTANCES
) -> Path:
    """Print the score tables; write metrics.json and the predictions in COCO's format into the folder returned."""
    folder = evaluation_folder(package, config, scoring=scoring)
    describe_pictures(dataset)
    describe_limits(config, dataset)
    evaluation = score(model, dataset, config.training, scoring)
    if is_main():
        written = [write_scores(folder, evaluation.metrics, evaluation.per_class)]
        if isinstance(evaluation, Evaluation):
            written.append(folder / "predictions.json")
            write_text(written[-1], json.dumps(evaluation.detections))
        print(f"written: {', '.join(map(str, written))}")
    return folder


def model_to_evaluate(
    package: str, variants: Mapping[str, Any], load: Callable[[str], M], arguments: Sequence[str] | None = None
) -> tuple[M, Any]:
    """The checkpoint that the command line names, on its device; its own settings changed by the file's and the flags'.

    `training.weights` then says which file it is, `training.run` where its evaluations go.
    """
    asked = configure(variants, arguments, prog="eval.py", evaluating=True)
    named = asked.training.weights
    path = Path(named.partition(DIGEST)[0] or run_folder(package, asked) / "best.safetensors")  # or a published name
    if not named and not path.exists():
        raise UserError(f"{path}: no such file; train first (python train.py), or name a checkpoint with --weights")
    model = load(named or str(path))
    config = configure(variants, arguments, model.config, "eval.py", evaluating=True)
    refuse_another_network(model.config, config, str(path))
    config.training.weights = str(path)
    if not named or (
        path.suffix == ".safetensors" and not config.training.run and (path.parent / "config.yaml").exists()
    ):
        config.training.run = str(path.parent)  # a run's checkpoint is evaluated in the run's folder
    model.config = config
    return model.to(start(config.training)).to(memory_format=torch.channels_last), config


def evaluation_folder(package: str, config: Config, data: str = "", scoring: Scoring | None = None) -> Path:
    """RUN/eval-WEIGHTS-DATA-DIGEST, where the digest is of all that decides the scores; what is there stays there."""
    refuse_unused_settings(config, scoring or Scoring())
    weights = Path(config.training.weights)
    named = config.data.val.annotations
    data = data or (Path(named[0]).stem if named else "shapes")
    settings = json.dumps([to_dict(config), str(weights.resolve())], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    folder = run_folder(package, config) / f"eval-{weights.stem.replace(':', '-')}-{data}-{digest}"
    keep_existing(folder, config.training)
    if is_main():
        print(f"evaluating {weights}")
    return folder


def keep_existing(folder: Path, settings: Training) -> None:
    """Stop before anything is computed that would replace an earlier evaluation's files."""
    if folder.is_dir() and any(folder.iterdir()) and not settings.overwrite:
        raise UserError(
            f"{folder}: has been evaluated before; --overwrite replaces the files, --run DIR writes elsewhere"
        )


def write_scores(folder: Path, metrics: Metrics, per_class: Mapping[str, Mapping[str, float]] | None = None) -> Path:
    """metrics.json, and tables of it on the terminal."""
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    print_scores(metrics)
    print_classes(per_class or {})
    return folder / "metrics.json"


def move_aside(folder: Path) -> None:
    """A new run neither mixes its files with an old one's nor throws those away."""
    if not (folder / "log.jsonl").exists():
        return
    number = 1
    while (older := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    folder.rename(older)
    print(f"the run that was in {folder} is now in {older}; --resume would have gone on with it")
