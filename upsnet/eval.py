"""Score UPSNet: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags].

Writes metrics.json, and the predictions as COCO's server takes them: panoptic.json and panoptic/*.png.
"""

import json
import sys
from dataclasses import replace
from functools import partial

import upsnet
from common.files import write_text
from common.run.distributed import barrier, is_main
from maskworks import commands, own_data
from maskworks.command_line import program
from upsnet.config import VARIANTS
from upsnet.panoptic_data import open_panoptic
from upsnet.scoring import SCORING, PanopticEvaluation, evaluate_panoptic_model


def main() -> None:
    model, config = commands.model_to_evaluate("upsnet", VARIANTS, upsnet.load)
    config.data = own_data.located(config.data, sys.argv[1:], "panoptic")
    dataset = open_panoptic(config.data, "val", config.training)
    commands.refuse_other_classes(dataset, model.class_names)
    folder = commands.evaluation_folder("upsnet", config)
    barrier()  # all have looked into the folder before one writes into it
    pictures = folder / "panoptic"
    pictures.mkdir(parents=True, exist_ok=True)
    scoring = replace(SCORING, evaluate=partial(evaluate_panoptic_model, folder=pictures))
    evaluation = commands.score(model, dataset, config.training, scoring)
    assert isinstance(evaluation, PanopticEvaluation)
    if is_main():
        commands.write_scores(folder, evaluation.metrics, evaluation.per_class)
        content = dataset.annotations_json() | {"annotations": evaluation.predictions}
        write_text(pictures.with_suffix(".json"), json.dumps(content))
        print(f"written: {folder / 'metrics.json'}, {pictures.with_suffix('.json')}, {pictures}")


if __name__ == "__main__":
    program.run(main)
