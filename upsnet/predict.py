"""Predict with UPSNet: python predict.py --weights FILE IMAGES... --out DIR."""

import upsnet
from maskworks import command_line, report
from maskworks.command_line import program
from maskworks.prediction.command import Predict, predict
from maskworks.published.names import local_file


def main() -> None:
    options = command_line.read(Predict, "predict.py")
    options.weights = str(local_file(options.weights))
    model = upsnet.load(options.weights, device=options.device)
    report.of_predictions(predict(model, model.class_names, model.category_ids, options, thing_count=model.things))


if __name__ == "__main__":
    program.run(main)
