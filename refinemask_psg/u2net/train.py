"""Train U-2-Net: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in data set."""

from collections.abc import Sequence

import torch

from common.errors import UserError
from common.run.callbacks import Callback, Run
from common.run.checkpoint import load_weights
from common.run.distributed import process_count
from common.run.settings import Training
from maskworks import commands, own_data, report, training
from maskworks.command_line.variants import configure
from maskworks.published.formats import read_checkpoint_or_published
from maskworks.published.names import local_file
from refinemask_psg.u2net.augmentation import RescaleAndCrop
from refinemask_psg.u2net.config import VARIANTS
from refinemask_psg.u2net.data import open_saliency
from refinemask_psg.u2net.network import U2Net
from refinemask_psg.u2net.scoring import SCORING
from refinemask_psg.u2net.weights import PACKAGE

LEFT_OUT = {"windows": "--augment.size and --augment.crop scale and cut", "copy-paste": "mattes are no objects"}
SMALLEST_SCALE = 32  # pixels of a crop for one of the deepest layers


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = configure(VARIANTS, arguments, prog="train.py")
    if not 0 < config.augment.crop <= config.augment.size:
        raise UserError(f"--augment.crop {config.augment.crop}: expected 1 to {config.augment.size}, --augment.size")
    device = commands.start(config.training)
    refuse_single_values(config.augment.crop, config.training)
    training_data = open_saliency(config.data, "train", config.training)
    validation_data = open_saliency(config.data, "val", config.training)
    model = U2Net(config.model.small, config)
    if config.training.weights:
        weights, _ = read_checkpoint_or_published(local_file(config.training.weights))
        load_weights(model, weights, config.training.weights)
    run = commands.train(
        PACKAGE,
        config,
        model.to(device).to(memory_format=torch.channels_last),
        training_data.class_names,
        own_data.training_set(training_data, RescaleAndCrop(config.augment), config, without=LEFT_OUT),
        validation_data,
        1,
        scoring=SCORING,
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


def refuse_single_values(crop: int, settings: Training) -> None:
    """Stop where the batch norms of the deepest layers would see one value for each channel, which has no variance."""
    at_once = settings.batch_size // (process_count() * settings.accumulate)
    if at_once == 1 and crop <= SMALLEST_SCALE:
        raise UserError(
            f"--augment.crop {crop}: one crop at a time is a single pixel to the deepest layers, which can't be "
            f"normalised; take more than {SMALLEST_SCALE} pixels, or a --batch-size of two for each process and batch"
        )


training.stay_callable(__name__)  # once imported, this module hides the function refinemask_psg.u2net.train
if __name__ == "__main__":
    training.run(main)
