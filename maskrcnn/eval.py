"""Score Mask R-CNN: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags]."""

import sys

import maskrcnn
from maskworks import commands, own_data, shapes
from maskworks.command_line import program


def main() -> None:
    model, config = commands.model_to_evaluate("maskrcnn", maskrcnn.VARIANTS, maskrcnn.load)
    config.data = own_data.located(config.data, sys.argv[1:])
    dataset = commands.open_dataset(shapes.fill_in(config.data, "val"), "val", config.training)
    commands.refuse_other_classes(dataset, model.class_names)
    scoring = commands.INSTANCES if model.config.model.masks else commands.BOXES
    commands.evaluate("maskrcnn", config, model, dataset, own_data.scored_in_tiles(scoring))


if __name__ == "__main__":
    program.run(main)
