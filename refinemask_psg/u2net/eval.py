"""Score U-2-Net: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations DIR] [--flags]."""

from maskworks import commands
from maskworks.command_line import program
from refinemask_psg.u2net.config import VARIANTS
from refinemask_psg.u2net.data import open_saliency
from refinemask_psg.u2net.scoring import SCORING
from refinemask_psg.u2net.weights import PACKAGE, load


def main() -> None:
    model, config = commands.model_to_evaluate(PACKAGE, VARIANTS, load)
    dataset = open_saliency(config.data, "val", config.training)
    commands.evaluate(PACKAGE, config, model, dataset, SCORING)


if __name__ == "__main__":
    program.run(main)
