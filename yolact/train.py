"""Train YOLACT: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch

from common.errors import UserError
from common.run.callbacks import Callback, Run
from common.run.distributed import process_count
from maskworks import commands, own_data, report, shapes, training
from maskworks.command_line.variants import configure
from yolact.augmentation import SSDAugmentation
from yolact.config import VARIANTS, Config
from yolact.network import DIVISOR, YOLACT
from yolact.weights import initialise


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = configured(arguments)
    device = commands.start(config.training)
    data = shapes.fill_in(config.data, "train", "val")
    training_data = own_data.cut(commands.open_dataset(data, "train", config.training), config.data)
    validation_data = commands.open_dataset(data, "val", config.training)
    model = commands.build_network(YOLACT, config, training_data.class_names)
    images_at_once = config.training.batch_size // (process_count() * config.training.accumulate)
    if images_at_once < config.model.freeze_batch_norm_below:
        model.freeze_batch_norms()
    initialise(model, config.training.weights)
    run = commands.train(
        "yolact",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, SSDAugmentation(config), config),
        validation_data,
        DIVISOR,
        scoring=own_data.scored_in_tiles(commands.INSTANCES),
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


def configured(arguments: Sequence[str] | None) -> Config:
    """What the command line asks for; the recipe's own numbers are scaled to its batch size, what it gives is not."""
    asked = configure(VARIANTS, arguments, prog="train.py")
    size, batch = asked.recipe_batch_size, asked.training.batch_size
    variants = {name: scaled(config, size or batch, batch) for name, config in VARIANTS.items()}
    config = own_data.configured(variants, arguments)
    if config.training.start_step < 0:
        config.training.start_step = iteration_of(config.training.weights)
    return config


def scaled(config: Config, size: int, batch: int) -> Config:
    """The recipe for another batch size: with n times as many images a step, n times the rate in 1/n of the steps."""
    config = deepcopy(config)
    config.optimizer.lr *= batch / size
    config.training.steps = config.training.steps * size // batch
    if config.schedule.unit == "steps":
        config.schedule.milestones = [step * size // batch for step in config.schedule.milestones]
    return config


def iteration_of(weights: str) -> int:
    """The original's files are named CONFIG_EPOCH_ITERATION.pth, or ..._interrupt.pth."""
    found = re.fullmatch(r".*_\d+_(\d+)(_interrupt)?", Path(weights).stem)
    if found is None:
        raise UserError(
            f"--start-step -1: expected with --weights a file named as yolact_base_10_32100.pth, with epoch and "
            f"iteration in it, not {weights!r}; name the step itself: --start-step 32100"
        )
    return int(found[1])


training.stay_callable(__name__)  # once imported, this module hides the function yolact.train
if __name__ == "__main__":
    training.run(main)
