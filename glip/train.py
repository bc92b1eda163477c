"""Train GLIP: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in captions."""

import sys

from common.data.loader import TrainingSet
from common.run import commands
from common.run.configuration import configure
from glip.augmentation import training_transforms
from glip.captioned_data import CaptionedDataset, open_data
from glip.config import VARIANTS
from glip.grounding import GroundingSet, writer
from glip.network import DIVISOR, GLIP
from glip.scoring import CAPTIONS, CLASSES
from glip.tuning import freeze, in_steps, parameter_group
from glip.weights import initialise
from maskworks import report


def main() -> None:
    config = configure(VARIANTS, sys.argv[1:], prog="train.py")
    device = commands.start(config.training)
    training_data = open_data(config.data, "train", config.training)
    validation_data = open_data(config.data, "val", config.training)
    captioned = isinstance(training_data, CaptionedDataset)
    names = training_data.phrase_names if isinstance(training_data, CaptionedDataset) else training_data.class_names
    model = commands.made(GLIP, config, names)
    initialise(model, config.training.weights)
    freeze(model)
    config.schedule = in_steps(config, len(training_data))
    inner = TrainingSet(training_data, training_transforms(config.augment), config.training.seed)
    folder = commands.train(
        "glip",
        config,
        model.to(device),
        model.class_names,
        GroundingSet(inner, writer(training_data, config, model.tokeniser), model.tokeniser),
        validation_data,
        DIVISOR,
        scoring=CAPTIONS if captioned else CLASSES,
        parameter_group=parameter_group(config.tuning),
    )
    report.of_run(folder)


if __name__ == "__main__":
    commands.run(main)
