"""A model's README picture: built-in validation scenes, or own pictures, with what the model finds in them.

python scripts/picture.py --weights runs/solov2/shapes/best.safetensors --out solov2/picture.jpg
python scripts/picture.py --weights runs/solov2/demo/best.safetensors --images datasets/nuclei/val/images --out a.jpg

GLIP is asked for what each scene's caption names; Pose2Seg gets the annotated joints.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image

from common.results import Result
from common.run.checkpoint import load
from maskworks import shapes
from maskworks.command_line import program
from maskworks.published.names import local_file

SIDE = 2 * 192  # the largest scene at twice its size


@dataclass
class Picture:
    """Draw a model's predictions on built-in scenes, side by side."""

    weights: str
    """A checkpoint of ours, trained on the built-in data set."""
    out: Path
    """The picture to write."""
    images: str = ""
    """A folder of pictures to show in place of the scenes."""
    scenes: tuple[int, ...] = (0, 1, 2, 3)
    """Numbers of the scenes, or pictures, to show."""
    threshold: float = 0.3
    """Instances with a lower score are not drawn."""


def main() -> None:
    options = tyro.cli(Picture, prog="picture.py")
    package = load(local_file(options.weights)).package
    model = import_module(package).load(options.weights)
    scenes = shapes.ensure("val")
    files = sorted(Path(options.images).iterdir() if options.images else scenes.images.iterdir())
    drawings = []
    for number in options.scenes:
        if options.images:  # cells are small, and many: numbers would hide them
            found = model.predict([files[number]])[0].draw(threshold=options.threshold, scale=2, with_scores=False)
        else:
            found = find(package, model, scenes, files[number]).draw(threshold=options.threshold, scale=2)
        drawings.append(np.asarray(found))
    side = max(SIDE, *(max(drawing.shape) for drawing in drawings))
    frames = np.full((len(drawings), side, side, 3), 255, np.uint8)
    for frame, drawing in zip(frames, drawings, strict=True):
        frame[: drawing.shape[0], : drawing.shape[1]] = drawing
    Image.fromarray(np.concatenate(frames, axis=1)).save(options.out, quality=85)
    print(f"written: {options.out.resolve()}")


def find(package: str, model: Any, scenes: shapes.ShapesFolder, file: Path) -> Result:
    """What a model finds in a scene; two packages want to know more than the picture."""
    more: list[Any] = []
    if package == "glip":
        more = [". ".join(phrases(scenes, file))]
    elif package == "pose2seg":
        from pose2seg.joints import read_for_files

        more = [[read_for_files(scenes.keypoints, 0.0)(file).joints]]
    results: list[Result] = model.predict([file], *more)
    return results[0]


def phrases(scenes: shapes.ShapesFolder, file: Path) -> list[str]:
    """What the scene's caption names, each once."""
    from glip.captioned_data import CaptionedDataset

    captions = CaptionedDataset([scenes.images], [scenes.captions])
    number = [captions.boxes.path(number).name for number in range(len(captions))].index(file.name)
    return list(dict.fromkeys(captions.name(number, phrase) for phrase in captions.phrases(number)))


if __name__ == "__main__":
    program.run(main)
