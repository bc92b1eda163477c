"""Train RefineMask: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

import sys

import torch

from common.data.loader import TrainingSet
from common.errors import UserError
from common.run import commands
from common.run.configuration import configure
from maskworks import own_data, report, shapes
from refinemask_psg.augmentation import training_transforms
from refinemask_psg.config import VARIANTS
from refinemask_psg.network import DIVISOR, RefineMask
from refinemask_psg.weights import initialise, parameter_group


def main() -> None:
    config = configure(VARIANTS, sys.argv[1:], prog="train.py")
    if config.relations.head != "none":
        from refinemask_psg.psg import commands as psg_commands  # needs transformers, which the detector doesn't

        psg_commands.train(config)
        return
    config = own_data.configured(VARIANTS, sys.argv[1:])
    polygons = config.model.mask_targets == "polygons"
    if polygons and config.augment.crop:
        raise UserError("--augment.crop: outlines are not cropped; choose --model.mask-targets bitmaps")
    device = commands.start(config.training)
    data = shapes.fill_in(config.data, "train", "val")
    training_data = own_data.cut(commands.open_dataset(data, "train", config.training), config.data)
    validation_data = commands.open_dataset(data, "val", config.training)
    model = commands.made(RefineMask, config, training_data.class_names)
    initialise(model, config.training.weights)
    folder = commands.train(
        "refinemask_psg",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        TrainingSet(training_data, training_transforms(config.augment), config.training.seed, polygons),
        validation_data,
        DIVISOR,
        scoring=own_data.scored_in_tiles(commands.INSTANCES),
        parameter_group=parameter_group,
    )
    report.of_run(folder)


if __name__ == "__main__":
    commands.run(main)
