"""Predict with YOLACT: python predict.py --weights FILE IMAGES... --out DIR."""

from dataclasses import dataclass

import yolact
from common.run import command_line, commands
from common.run.prediction import PredictInTiles, predict
from maskworks import own_data, report
from maskworks.published.names import local_file


@dataclass
class Options(PredictInTiles, own_data.PredictToCorrect):
    """Find the objects in photographs and videos; large ones may be cut into tiles."""


def main() -> None:
    options = command_line.read(Options, "predict.py")
    own_data.refuse_to_replace(options)
    options.weights = str(local_file(options.weights))
    model = yolact.load(options.weights, device=options.device)
    folder = predict(model, model.class_names, model.category_ids, options)
    report.of_predictions(own_data.to_correct(folder, options))


if __name__ == "__main__":
    commands.run(main)
