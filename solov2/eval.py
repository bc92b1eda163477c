"""Score SOLOv2: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags]."""

import sys

import solov2
from maskworks import commands, own_data, shapes
from maskworks.command_line import program


def main() -> None:
    model, config = commands.model_to_evaluate("solov2", solov2.VARIANTS, solov2.load)
    config.data = own_data.located(config.data, sys.argv[1:])
    dataset = commands.open_dataset(shapes.fill_in(config.data, "val"), "val", config.training)
    commands.refuse_other_classes(dataset, model.class_names)
    commands.evaluate("solov2", config, model, dataset, own_data.scored_in_tiles(commands.INSTANCES))


if __name__ == "__main__":
    program.run(main)
