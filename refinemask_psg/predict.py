"""Predict with RefineMask: python predict.py --weights FILE IMAGES... --out DIR; with --model u2net a saliency map."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from PIL import Image

import refinemask_psg
from common import commands
from common.distributed import is_main
from common.errors import UserError
from common.prediction import Picture, Work, predict
from refinemask_psg.psg_predict import PredictScenes, submit
from refinemask_psg.resnet import fold_batch_norms
from refinemask_psg.u2net import INPUT_SIZE


@dataclass
class Options(PredictScenes):
    """Find the objects in photographs and videos; with relations, scene graphs; with U-2-Net, what is salient."""

    model: Literal["detector", "u2net"] = "detector"
    """u2net: WEIGHTS is the published u2net.pth or u2netp.pth; writes maps of how salient each pixel is."""
    size: int = INPUT_SIZE
    """Side of U-2-Net's square input; 320 as published, 288 as it was trained on."""


def main() -> None:
    options = tyro.cli(Options, prog="predict.py")
    if options.model == "u2net":
        predict_saliency(options)
        return
    model = refinemask_psg.load(options.weights)
    fold_batch_norms(model.backbone)
    if options.submission:
        submit(model, options)
        return
    things = None if model.scene_graph is None else model.config.relations.things
    predict(model, model.class_names, model.category_ids, options, thing_count=things)


def predict_saliency(options: Options) -> None:
    """A grey map as PNG for each photograph."""
    model = refinemask_psg.load_u2net(options.weights).to(commands.choose_device(options.device))
    out = Path(options.out)

    def write(_: Path, name: str, image: Picture, shown: bool) -> dict[str, Any]:
        out.mkdir(parents=True, exist_ok=True)
        Image.fromarray(model.predict(image, options.size)).save(out / f"{name}.png")
        return {}

    with Work(options, {}) as work:
        work.photographs(write)
        work.journal.gather()
        if not is_main():
            return
        done = sum(map(work.is_done, work.stills))
        work.journal.remove()
    if not done:
        raise UserError("none of the photographs could be read")
    print(f"{done} maps written: {out.resolve()}")


if __name__ == "__main__":
    commands.run(main)
