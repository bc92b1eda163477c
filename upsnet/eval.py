"""Score UPSNet: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags].

Writes metrics.json, and the predictions as COCO's server takes them: panoptic.json and panoptic/*.png.
"""

import json
import sys

import torch

import upsnet
from common.files import write_text
from common.ops.precision import autocast
from common.run.distributed import barrier, is_main
from maskworks import commands, own_data, shapes
from maskworks.command_line import program
from upsnet.config import VARIANTS
from upsnet.panoptic_data import open_panoptic
from upsnet.scoring import evaluate_panoptic_model


def main() -> None:
    model, config = commands.model_to_evaluate("upsnet", VARIANTS, upsnet.load)
    device = commands.start(config.training)
    config.data = own_data.located(config.data, sys.argv[1:], "panoptic")
    data = shapes.fill_in(config.data, "val", annotations="panoptic")
    dataset = open_panoptic(data, "val", config.training)
    commands.refuse_other_classes(dataset, model.class_names)
    folder = commands.evaluation_folder("upsnet", config)
    barrier()  # all have looked into the folder before one writes into it
    pictures = folder / "panoptic"
    pictures.mkdir(parents=True, exist_ok=True)
    with autocast(device, config.training.precision):
        evaluation = evaluate_panoptic_model(
            model.to(device).to(memory_format=torch.channels_last), dataset, 1, config.training.workers, pictures
        )
    if is_main():
        commands.write_scores(folder, evaluation.metrics, evaluation.per_class)
        content = dataset.annotations_json() | {"annotations": evaluation.predictions}
        write_text(pictures.with_suffix(".json"), json.dumps(content))
        print(f"written: {folder / 'metrics.json'}, {pictures.with_suffix('.json')}, {pictures}")


if __name__ == "__main__":
    program.run(main)
