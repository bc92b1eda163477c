"""Score UPSNet: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags].

Writes metrics.json, and the predictions as COCO's server takes them: panoptic.json and panoptic/*.png. --per-class
prints the panoptic quality of each class too.
"""

import json
import sys
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import upsnet
from common import commands
from common.checkpoint import write_text
from common.coco import refuse_other_classes
from common.distributed import barrier, is_main
from common.panoptic_data import PanopticDataset
from common.precision import autocast
from upsnet.config import VARIANTS
from upsnet.scoring import evaluate

PER_CLASS = "--per-class"


def main() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != PER_CLASS]
    model, config = commands.model_to_evaluate("upsnet", VARIANTS, upsnet.load, arguments)
    device = commands.start(config.training)
    dataset = commands.open_panoptic(config.data, "val", config.training)
    refuse_other_classes(dataset, model.class_names)
    folder = commands.run_folder("upsnet", config)
    pictures = folder / "panoptic"
    pictures.mkdir(parents=True, exist_ok=True)
    barrier()
    with autocast(device, config.training.precision):
        evaluation = evaluate(
            model.to(device).to(memory_format=torch.channels_last), dataset, 1, config.training.workers, pictures
        )
    if is_main():
        commands.write_scores(folder, evaluation.metrics)
        if PER_CLASS in sys.argv:
            print_classes(evaluation.metrics["panoptic"]["per_class"], dataset)
        content = dataset.annotations_json() | {"annotations": evaluation.predictions}
        write_text(pictures.with_suffix(".json"), json.dumps(content))
        print(f"written: {folder / 'metrics.json'}, {pictures.with_suffix('.json')}, {pictures}")


def print_classes(scores: dict[int, dict[str, Any]], dataset: PanopticDataset) -> None:
    table = Table("class", "kind", "PQ", "SQ", "RQ", "found", "wrong", "missed")
    for label, (name, identity) in enumerate(zip(dataset.class_names, dataset.category_ids, strict=True)):
        row = scores[identity]
        numbers = [f"{row[key]:.3f}" for key in ("pq", "sq", "rq")] + [str(row[key]) for key in ("tp", "fp", "fn")]
        table.add_row(name, "thing" if label < dataset.thing_count else "stuff", *numbers)
    Console(width=100).print(table)


if __name__ == "__main__":
    commands.run(main)
