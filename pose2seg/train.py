"""Train Pose2Seg: python train.py [VARIANT] [--config FILE.yaml] [--flags]; without any, on the built-in people."""

from collections.abc import Sequence

import torch

from common.run.callbacks import Callback, Run
from maskworks import commands, own_data, report, training
from pose2seg.augmentation import Letterbox
from pose2seg.config import VARIANTS
from pose2seg.network import Pose2Seg
from pose2seg.people import People, open_people
from pose2seg.scoring import people_scoring
from pose2seg.weights import initialise

NO_PASTING = {"copy-paste": "a pasted person would lie on joints that count as seen"}


def main(arguments: Sequence[str] | None = None, callbacks: Sequence[Callback] = ()) -> Run:
    config = own_data.configured(VARIANTS, arguments, task="keypoints")
    device = commands.start(config.training)
    training_data = People(open_people(config.data, "train", config.training))
    validation_data = open_people(config.data, "val", config.training)
    model = commands.build_network(Pose2Seg, config, training_data.class_names)
    initialise(model, config.training.weights)
    run = commands.train(
        "pose2seg",
        config,
        # PyTorch sums a batch's statistics on a processor in single precision here, 1e-5 to 1e-4 off, and in double in
        # the plain format (3e-8), but a batch norm takes 1.2 to 1.7 times as long there; two batches differ by far more
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, Letterbox(config.model.input_size), config, without=NO_PASTING),
        validation_data,
        config.model.input_size,
        scoring=people_scoring(config.test.occlusion),
        predicting=("--keypoints", str(validation_data.annotation_files[0])),
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


training.stay_callable(__name__)  # once imported, this module hides the function pose2seg.train
if __name__ == "__main__":
    training.run(main)
