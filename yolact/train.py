"""Train YOLACT: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

import sys

import torch

from common import commands
from common.configuration import configure
from common.distributed import process_count
from common.loader import TrainingSet
from yolact.augmentation import SSDAugmentation
from yolact.config import VARIANTS, Config
from yolact.network import DIVISOR, YOLACT
from yolact.weights import initialise


def main() -> None:
    config = scaled(configure(VARIANTS, sys.argv[1:], prog="train.py"))
    device = commands.start(config.training)
    training_data = commands.open_dataset(config.data, "train", config.training)
    validation_data = commands.open_dataset(config.data, "val", config.training)
    model = YOLACT(config, training_data.class_names)
    if images_at_once(config) < config.model.freeze_batch_norm_below:
        model.freeze_batch_norms()
    initialise(model, config.training.weights)
    commands.train(
        "yolact",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        TrainingSet(training_data, SSDAugmentation(config), config.training.seed),
        validation_data,
        DIVISOR,
    )


def scaled(config: Config) -> Config:
    """The recipe for another batch size: with n times as many images a step, n times the rate in 1/n of the steps."""
    training, size = config.training, config.recipe_batch_size
    if size and training.batch_size != size:
        config.optimizer.lr *= training.batch_size / size
        training.steps = training.steps * size // training.batch_size
        if config.schedule.unit == "steps":
            config.schedule.milestones = [step * size // training.batch_size for step in config.schedule.milestones]
        config.recipe_batch_size = training.batch_size  # a saved configuration is not scaled again
    return config


def images_at_once(config: Config) -> int:
    return config.training.batch_size // (process_count() * config.training.accumulate)


if __name__ == "__main__":
    commands.run(main)
