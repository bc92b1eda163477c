"""Train GLIP: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in captions."""

from collections.abc import Sequence

from common.run.callbacks import Callback, Run
from glip.augmentation import training_transforms
from glip.captioned_data import CaptionedDataset, open_data
from glip.config import VARIANTS
from glip.grounding import GroundingSet, writer
from glip.network import DIVISOR, GLIP
from glip.scoring import CAPTIONS, CLASSES
from glip.tuning import freeze, in_steps, parameter_group
from glip.weights import initialise
from maskworks import commands, own_data, report, training

NO_PASTING = {"copy-paste": "boxes do not say which pixels to take"}


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = own_data.configured(VARIANTS, arguments, task="captions")
    device = commands.start(config.training)
    training_data = open_data(config.data, "train", config.training)
    validation_data = open_data(config.data, "val", config.training)
    captioned = isinstance(training_data, CaptionedDataset)
    names = training_data.phrase_names if isinstance(training_data, CaptionedDataset) else training_data.class_names
    model = commands.build_network(GLIP, config, names)
    initialise(model, config.training.weights)
    freeze(model)
    config.schedule = in_steps(config, len(training_data))
    own_data.mirror_no_sides(config, training_data.texts if isinstance(training_data, CaptionedDataset) else names)
    inner = own_data.training_set(training_data, training_transforms(config.augment), config, without=NO_PASTING)
    run = commands.train(
        "glip",
        config,
        model.to(device),
        model.class_names,
        GroundingSet(inner, writer(training_data, config, model.tokeniser), model.tokeniser),
        validation_data,
        DIVISOR,
        scoring=CAPTIONS if captioned else CLASSES,
        parameter_group=parameter_group(config.tuning),
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


training.stay_callable(__name__)  # once imported, this module hides the function glip.train
if __name__ == "__main__":
    training.run(main)
