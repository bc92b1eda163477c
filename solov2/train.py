"""Train SOLOv2: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

from collections.abc import Sequence

import torch

from common.run.callbacks import Callback, Run
from maskworks import commands, own_data, report, shapes, training
from solov2.augmentation import training_transforms
from solov2.config import VARIANTS
from solov2.network import DIVISOR, SOLOv2
from solov2.weights import initialise


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = own_data.configured(VARIANTS, arguments)
    device = commands.start(config.training)
    data = shapes.fill_in(config.data, "train", "val")
    training_data = own_data.cut(commands.open_dataset(data, "train", config.training), config.data)
    validation_data = commands.open_dataset(data, "val", config.training)
    model = commands.build_network(SOLOv2, config, training_data.class_names)
    initialise(model, config.training.weights)
    run = commands.train(
        "solov2",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, training_transforms(config.augment), config),
        validation_data,
        DIVISOR,
        scoring=own_data.scored_in_tiles(commands.INSTANCES),
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


training.stay_callable(__name__)  # once imported, this module hides the function solov2.train
if __name__ == "__main__":
    training.run(main)
