"""Train UPSNet: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

from collections.abc import Sequence

import torch

from common.errors import UserError
from common.run.callbacks import Callback, Run
from maskworks import commands, own_data, report, training
from upsnet.augmentation import training_transforms
from upsnet.config import VARIANTS
from upsnet.network import DIVISOR, UPSNet
from upsnet.panoptic_data import open_panoptic
from upsnet.scoring import SCORING
from upsnet.weights import initialise


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = own_data.configured(VARIANTS, arguments, task="panoptic")
    device = commands.start(config.training)
    training_data = open_panoptic(config.data, "train", config.training)
    validation_data = open_panoptic(config.data, "val", config.training)
    config.model.things = training_data.thing_count
    if not 0 < training_data.thing_count < len(training_data.class_names):
        count = f"{training_data.thing_count} of its {len(training_data.class_names)} classes are things (isthing: 1)"
        raise UserError(f"the training set: {count}; UPSNet needs things and stuff, a class of each at least")
    model = commands.build_network(UPSNet, config, training_data.class_names)
    initialise(model, config.training.weights)
    run = commands.train(
        "upsnet",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, training_transforms(config.augment), config),
        validation_data,
        DIVISOR,
        scoring=SCORING,
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


training.stay_callable(__name__)  # once imported, this module hides the function upsnet.train
if __name__ == "__main__":
    training.run(main)
