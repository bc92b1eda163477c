"""Predict with YOLACT: python predict.py --weights FILE IMAGES... --out DIR."""

import yolact
from maskworks import command_line, exported, own_data, report
from maskworks.command_line import program
from maskworks.prediction.command import predict
from maskworks.published.names import local_file


def main() -> None:
    options = command_line.read(own_data.PredictInTiles, "predict.py")
    own_data.refuse_to_replace(options)
    options.weights = str(local_file(options.weights))
    model = exported.opened(options) or yolact.load(options.weights, device=options.device)
    folder = predict(own_data.as_asked(model, options), model.class_names, model.category_ids, options)
    report.of_predictions(own_data.to_correct(folder, options))


if __name__ == "__main__":
    program.run(main)
