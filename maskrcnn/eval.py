"""Score Mask R-CNN: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags]."""

import maskrcnn
from common.run import commands
from maskrcnn.backbone import fold_batch_norms
from maskrcnn.scoring import scoring


def main() -> None:
    commands.evaluate_command("maskrcnn", maskrcnn.VARIANTS, maskrcnn.load, fold_batch_norms, scoring(masks=True))


if __name__ == "__main__":
    commands.run(main)
