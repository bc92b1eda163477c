"""A model's README picture: built-in validation scenes with what the model finds in them.

python scripts/picture.py --weights runs/solov2/shapes/best.safetensors --out solov2/picture.jpg
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from common import commands, shapes
from common.checkpoint import load

SIDE = 2 * 192  # the largest scene at twice its size


@dataclass
class Picture:
    """Draw a model's predictions on built-in scenes, side by side."""

    weights: str
    """A checkpoint of ours, trained on the built-in data set."""
    out: Path
    """The picture to write."""
    scenes: tuple[int, ...] = (0, 1, 2, 3)
    """Numbers of the validation scenes to show."""
    threshold: float = 0.3
    """Instances with a lower score are not drawn."""


def main() -> None:
    options = tyro.cli(Picture, prog="picture.py")
    package = import_module(load(Path(options.weights)).package)
    model = package.load(options.weights)
    files = sorted(shapes.ensure("val").images.iterdir())
    drawings = []
    for number in options.scenes:
        drawing = np.asarray(model.predict([files[number]])[0].draw(threshold=options.threshold, scale=2))
        frame = np.full((SIDE, SIDE, 3), 255, np.uint8)
        frame[: drawing.shape[0], : drawing.shape[1]] = drawing
        drawings.append(frame)
    Image.fromarray(np.concatenate(drawings, axis=1)).save(options.out, quality=85)
    print(f"written: {options.out.resolve()}")


if __name__ == "__main__":
    commands.run(main)
