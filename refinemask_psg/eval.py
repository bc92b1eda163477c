"""Score RefineMask: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags]."""

import sys

import refinemask_psg
from maskworks import commands, own_data, shapes
from maskworks.command_line import program


def main() -> None:
    model, config = commands.model_to_evaluate("refinemask_psg", refinemask_psg.VARIANTS, refinemask_psg.load)
    if model.scene_graph is not None:
        from refinemask_psg.psg import commands as psg_commands  # needs transformers, which the detector doesn't

        model.scene_graph.settings = config.relations
        psg_commands.evaluate(model, config)
        return
    config.data = own_data.located(config.data, sys.argv[1:])
    dataset = commands.open_dataset(shapes.fill_in(config.data, "val"), "val", config.training)
    commands.refuse_other_classes(dataset, model.class_names)
    scoring = commands.INSTANCES if len(model.mask_heads) else commands.BOXES
    commands.evaluate("refinemask_psg", config, model, dataset, own_data.scored_in_tiles(scoring))


if __name__ == "__main__":
    program.run(main)
