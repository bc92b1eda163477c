"""Train RefineMask: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

from collections.abc import Sequence

import torch

from common.errors import UserError
from common.run.callbacks import Callback, Run
from maskworks import commands, own_data, report, shapes, training
from maskworks.command_line.variants import configure
from refinemask_psg.augmentation import training_transforms
from refinemask_psg.config import VARIANTS
from refinemask_psg.network import DIVISOR, RefineMask
from refinemask_psg.weights import initialise, parameter_group


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = configure(VARIANTS, arguments, prog="train.py")
    if config.relations.head != "none":
        from refinemask_psg.psg import commands as psg_commands  # needs transformers, which the detector doesn't

        return psg_commands.train(own_data.configured(VARIANTS, arguments, task="scene_graph"), callbacks)
    config = own_data.configured(VARIANTS, arguments)
    polygons = config.model.mask_targets == "polygons"
    if polygons and config.augment.crop:
        raise UserError("--augment.crop: outlines are not cropped; choose --model.mask-targets bitmaps")
    device = commands.start(config.training)
    data = shapes.fill_in(config.data, "train", "val")
    training_data = own_data.cut(commands.open_dataset(data, "train", config.training), config.data)
    validation_data = commands.open_dataset(data, "val", config.training)
    model = commands.build_network(RefineMask, config, training_data.class_names)
    initialise(model, config.training.weights)
    run = commands.train(
        "refinemask_psg",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, training_transforms(config.augment), config, polygons),
        validation_data,
        DIVISOR,
        scoring=own_data.scored_in_tiles(commands.INSTANCES if len(model.mask_heads) else commands.BOXES),
        parameter_group=parameter_group,
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


training.stay_callable(__name__)  # once imported, this module hides the function refinemask_psg.train
if __name__ == "__main__":
    training.run(main)
