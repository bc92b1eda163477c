"""Predict with RefineMask: python predict.py --weights FILE IMAGES... --out DIR; with --model u2net a saliency map."""

from dataclasses import dataclass
from typing import Literal

import refinemask_psg
from common.errors import UserError
from common.run.ranges import Whole
from maskworks import command_line, exported, own_data, report
from maskworks.command_line import program
from maskworks.prediction.command import Predict, predict
from maskworks.published.names import local_file
from refinemask_psg.psg.predict import PredictScenes, submit
from refinemask_psg.u2net.predict import predict_saliency


@dataclass
class Options(PredictScenes, own_data.PredictToCorrect):
    """Find the objects in photographs and videos; with relations, scene graphs; with U-2-Net, what is salient."""

    model: Literal["detector", "u2net"] = "detector"
    """u2net: WEIGHTS is the published u2net.pth or u2netp.pth; writes maps of how salient each pixel is."""
    size: Whole = 0
    """Side of U-2-Net's square input; 0: as the checkpoint says, 320 for the published ones."""


def main() -> None:
    options = command_line.read(Options, "predict.py")
    refuse_unused_options(options)
    if options.model == "u2net":
        predict_saliency(options, options.size)
        return
    options.weights = str(local_file(options.weights))
    model = exported.opened(options) or refinemask_psg.load(options.weights, device=options.device)
    if options.submission:
        submit(model, options)
        return
    if options.format and model.scene_graph is not None:
        raise UserError(f"--format: {options.weights} makes scene graphs; it is for a detector's objects")
    own_data.refuse_to_replace(options)
    things = None if model.scene_graph is None else model.config.relations.things
    model = own_data.as_asked(model, options)
    folder = predict(model, model.class_names, model.category_ids, options, thing_count=things)
    report.of_predictions(own_data.to_correct(folder, options))


def refuse_unused_options(options: Options) -> None:
    """Stop at flags that would be taken and then not looked at."""
    if options.size and options.model != "u2net":
        raise UserError("--size: the detector's pictures have the size of its checkpoint; it belongs to --model u2net")
    if options.submission and options.model == "u2net":
        raise UserError("--submission: U-2-Net finds no relations; leave out --model u2net")
    if options.annotations and not options.submission:
        raise UserError("--annotations: the order of a submission's images; name its folder with --submission")
    if options.format and (options.submission or options.model == "u2net"):
        raise UserError("--format: it is for a detector's objects; leave out --submission and --model u2net")
    if options.submission and options.out != Predict.out:
        raise UserError("--submission and --out: a submission is written instead of drawings; leave out --out")


if __name__ == "__main__":
    program.run(main)
