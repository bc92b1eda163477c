"""Predict with GLIP: python predict.py --weights FILE --prompt "person. bicycle. a man in a red shirt." IMAGES..."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

import glip
from common.errors import UserError
from common.results import Instances, Result
from common.run.ranges import Share
from glip.network import GLIP
from glip.prompts import Prompt, class_prompt, read_prompt
from glip.scoring import SURE
from maskworks import command_line, own_data, report
from maskworks.command_line import program
from maskworks.prediction.command import predict
from maskworks.published.names import local_file


@dataclass
class PredictBoxes(own_data.PredictToCorrect):
    """Find boxes in photographs and videos."""

    threshold: Share = SURE
    """Boxes with a lower score are not drawn; predictions.json holds all."""


@dataclass
class Options:
    """Find in photographs and videos what a text names."""

    predict: Annotated[PredictBoxes, tyro.conf.arg(name="")]
    prompt: str = ""
    """`coco`, a file with a name on each line, "person. red cup.", or a caption; empty: the training's classes."""
    spans: tuple[str, ...] = field(default=())
    """The characters START:END of the caption to look for; none: its noun phrases."""
    vocabulary: Annotated[str, tyro.conf.arg(name="text.vocabulary")] = ""
    """Another WordPiece vocabulary than the checkpoint's: its file or folder, or hub:NAME."""


def main() -> None:
    options = command_line.read(Options, "predict.py")
    if options.spans and not options.prompt:
        raise UserError("--spans: the characters of a caption; name it with --prompt")
    own_data.refuse_to_replace(options.predict)
    options.predict.weights = str(local_file(options.predict.weights))
    model = glip.load(options.predict.weights, device=options.predict.device)
    model.config.text.vocabulary = options.vocabulary or model.config.text.vocabulary
    prompt = model.prompt = chosen_prompt(model, options)
    numbers = range(1, len(prompt.names) + 1)
    folder = predict(
        model, prompt.names, tuple(numbers), options.predict, remarks=lambda result: remarks(result, prompt)
    )
    report.of_predictions(own_data.to_correct(folder, options.predict))


def chosen_prompt(model: GLIP, options: Options) -> Prompt:
    if not options.prompt:
        return class_prompt(model.class_names, model.tokeniser, model.config.text)
    return read_prompt(options.prompt, model.tokeniser, model.config.text, options.spans)


def remarks(result: Result, prompt: Prompt) -> Sequence[dict[str, Any]]:
    """For each box its phrase, the caption that names it, and where."""
    assert isinstance(result, Instances)
    found = []
    for label in result.labels.tolist():
        caption, parts = prompt.span(label)
        found.append({"phrase": prompt.names[label], "caption": caption, "span": [list(part) for part in parts]})
    return found


if __name__ == "__main__":
    program.run(main)
