"""Train SOLOv2: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

import sys

import torch

from common.data.loader import TrainingSet
from common.run import commands
from maskworks import own_data, report, shapes
from solov2.augmentation import training_transforms
from solov2.config import VARIANTS
from solov2.network import DIVISOR, SOLOv2
from solov2.weights import initialise


def main() -> None:
    config = own_data.configured(VARIANTS, sys.argv[1:])
    device = commands.start(config.training)
    data = shapes.fill_in(config.data, "train", "val")
    training_data = own_data.cut(commands.open_dataset(data, "train", config.training), config.data)
    validation_data = commands.open_dataset(data, "val", config.training)
    model = commands.made(SOLOv2, config, training_data.class_names)
    initialise(model, config.training.weights)
    folder = commands.train(
        "solov2",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        TrainingSet(training_data, training_transforms(config.augment), config.training.seed),
        validation_data,
        DIVISOR,
        scoring=own_data.scored_in_tiles(commands.INSTANCES),
    )
    report.of_run(folder)


if __name__ == "__main__":
    commands.run(main)
