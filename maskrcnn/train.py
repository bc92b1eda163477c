"""Train Mask R-CNN: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

from collections.abc import Sequence

import torch

from common.run.callbacks import Callback, Run
from maskrcnn.augmentation import training_transforms
from maskrcnn.config import VARIANTS
from maskrcnn.network import MaskRCNN
from maskrcnn.weights import initialise
from maskworks import commands, own_data, report, shapes, training


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = own_data.configured(VARIANTS, arguments)
    device = commands.start(config.training)
    data = shapes.fill_in(config.data, "train", "val")
    training_data = own_data.cut(commands.open_dataset(data, "train", config.training), config.data)
    validation_data = commands.open_dataset(data, "val", config.training)
    model = commands.build_network(MaskRCNN, config, training_data.class_names)
    initialise(model, config.training.weights)
    polygons = config.model.masks and config.conventions.mask_targets == "polygons"
    transforms = training_transforms(config.augment, config.conventions)
    run = commands.train(
        "maskrcnn",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, transforms, config, polygons),
        validation_data,
        config.conventions.size_divisor,
        scoring=own_data.scored_in_tiles(commands.INSTANCES if config.model.masks else commands.BOXES),
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


training.stay_callable(__name__)  # once imported, this module hides the function maskrcnn.train
if __name__ == "__main__":
    training.run(main)
