"""Score SOLOv2: python eval.py [--weights FILE] [--data.val.images DIR --data.val.annotations FILE] [--flags]."""

import solov2
from common.run import commands
from solov2.backbone import fold_batch_norms


def main() -> None:
    commands.evaluate_command("solov2", solov2.VARIANTS, solov2.load, lambda model: fold_batch_norms(model.backbone))


if __name__ == "__main__":
    commands.run(main)
