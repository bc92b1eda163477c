"""Score GLIP: python eval.py [--weights FILE] [--prompt coco] [--data.val...] [--odinw FOLDER] [--flags].

On COCO-format annotations: box mAP of their classes. On captions: of their phrases, and the recall of grounding.
"""

import sys
from functools import partial
from pathlib import Path

import glip
from common.data.coco import CocoDataset
from common.errors import UserError
from common.ops.precision import autocast
from common.run.distributed import is_main
from glip.captioned_data import open_data
from glip.network import GLIP
from glip.odinw import evaluate_folder
from glip.prompts import Prompt, read_prompt
from glip.scoring import CAPTIONS, CLASSES, evaluate_classes
from maskworks import commands, own_data
from maskworks.command_line import program
from maskworks.commands import Scoring


def main() -> None:
    model, config = commands.model_to_evaluate("glip", glip.VARIANTS, glip.load)
    if config.odinw:
        folder = commands.evaluation_folder("glip", config, Path(config.odinw).name)
        with autocast(next(model.parameters()).device, config.training.precision):
            metrics, classes = evaluate_folder(model, Path(config.odinw), config.training)
        if is_main():
            print(f"written: {commands.write_scores(folder, metrics, classes)}")
        return
    config.data = own_data.located(config.data, sys.argv[1:], "captions")
    dataset = open_data(config.data, "val", config.training)
    scoring = scoring_of(model, dataset, config.prompt) if isinstance(dataset, CocoDataset) else CAPTIONS
    commands.evaluate("glip", config, model, dataset, scoring)


def scoring_of(model: GLIP, dataset: CocoDataset, text: str) -> Scoring:
    """How a data set of classes is scored: by their own names, or by those that the prompt has in their order."""
    if not text:
        return CLASSES
    prompt: Prompt = read_prompt(text, model.tokeniser, model.config.text)
    if len(prompt.names) != len(dataset.class_names):
        raise UserError(
            f"--prompt names {len(prompt.names)} things, but the data has {len(dataset.class_names)} classes; name "
            f"each of them in the order of their ids: {list(dataset.class_names)}"
        )
    return Scoring(evaluate=partial(evaluate_classes, prompt=prompt), decisive=CLASSES.decisive, limited=True)


if __name__ == "__main__":
    program.run(main)
