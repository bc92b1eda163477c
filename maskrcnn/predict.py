"""Predict with Mask R-CNN: python predict.py --weights FILE IMAGES... --out DIR."""

import tyro

import maskrcnn
from common.run import commands
from common.run.prediction import Predict, predict
from maskworks import report
from maskworks.published.names import local_file


def main() -> None:
    options = tyro.cli(Predict, prog="predict.py")
    options.weights = str(local_file(options.weights))
    model = maskrcnn.load(options.weights, device=options.device)
    report.of_predictions(predict(model, model.class_names, model.category_ids, options))


if __name__ == "__main__":
    commands.run(main)
