"""What is salient in photographs: python predict.py --weights FILE IMAGES... --out DIR."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from common.errors import UserError
from common.run.distributed import choose_device, is_main
from common.run.model import Picture
from common.run.ranges import Whole
from maskworks import command_line
from maskworks.command_line import program
from maskworks.prediction.command import Predict, Work, skip
from maskworks.published.names import local_file
from refinemask_psg.u2net.weights import load


@dataclass
class Options(Predict):
    """Write a grey map of how salient each pixel is for every photograph: OUT/NAME.png."""

    size: Whole = 0
    """Side of the network's square input; 0: as the checkpoint says, 320 for the published ones."""
    cutouts: bool = False
    """Write what is salient, cut out, as well: OUT/cutouts/NAME.png."""


def main() -> None:
    options = command_line.read(Options, "predict.py")
    predict_saliency(options, options.size, options.cutouts)


def predict_saliency(options: Predict, size: int, cutouts: bool = False) -> None:
    options.weights = str(local_file(options.weights))
    model = load(options.weights).to(choose_device(options.device))
    out = Path(options.out)

    def write(path: Path, name: str, image: Picture, shown: bool) -> dict[str, Any]:
        matte = model.predict(image, size)
        save(Image.fromarray(matte), out / f"{name}.png", path)
        if cutouts:
            save(Image.fromarray(np.dstack((image, matte))), out / "cutouts" / f"{name}.png", path)
        return {}

    with Work(options, {}) as work:
        work.photographs(write)
        work.journal.gather()
        if not is_main():
            return
        for path in work.videos:
            skip(path, "a video; U-2-Net takes photographs")
        done = sum(map(work.is_done, work.stills))
        work.journal.remove()
    if not done:
        raise UserError("none of the photographs could be read")
    print(f"{done} maps written: {out.resolve()}")


def save(picture: Image.Image, target: Path, photograph: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(photograph):
        raise UserError(f"{photograph}: would be replaced by its map; name another folder with --out")
    picture.save(target)


if __name__ == "__main__":
    program.run(main)
