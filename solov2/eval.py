"""Score SOLOv2: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags]."""

import sys

import torch

import solov2
from common import commands
from common.coco import refuse_other_classes
from common.configuration import configure
from solov2.backbone import fold_batch_norms
from solov2.config import VARIANTS


def main() -> None:
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        configure(VARIANTS, ["--help"], prog="eval.py")
    weights = commands.weights_to_evaluate("solov2", list(VARIANTS), arguments)
    model = solov2.load(weights)
    flags = arguments[1:] if arguments and not arguments[0].startswith("-") else arguments
    config = model.config = configure(VARIANTS, flags, default=model.config, prog="eval.py")
    fold_batch_norms(model.backbone)
    device = commands.start(config.training)
    dataset = commands.open_dataset(config.data, "val", config.training)
    refuse_other_classes(dataset, model.class_names)
    commands.evaluate("solov2", config, model.to(device).to(memory_format=torch.channels_last), dataset)


if __name__ == "__main__":
    commands.run(main)
