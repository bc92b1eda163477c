"""The original's demo: confident objects only, outlined on the picture. python demo.py --weights FILE IMAGES..."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

import maskrcnn
from common.data.images import list_images, read_image
from common.errors import UserError
from common.results import Instances
from common.run.distributed import choose_device
from maskworks import command_line
from maskworks.command_line import program
from maskworks.prediction.command import unique_names

CONFIDENCE = 0.7  # the demo's threshold
COLOUR_STEPS = (2**25 - 1, 2**15 - 1, 2**21 - 1)  # blue, green, red
WHITE = (255, 255, 255)


@dataclass
class Demo:
    """Draw what is found as maskrcnn-benchmark's demo does."""

    images: Annotated[list[str], tyro.conf.Positional]
    """Photographs, folders, globs."""
    weights: str
    """A checkpoint of ours."""
    out: str = "demo"
    """Folder for the drawings."""
    confidence: float = CONFIDENCE
    """Objects that score this or less are not drawn."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""


def main() -> None:
    options = command_line.read(Demo, "demo.py")
    model = maskrcnn.load(options.weights).to(choose_device(options.device))
    found, out = list_images(options.images), Path(options.out)
    drawn = 0
    for path, name in zip(found, unique_names(found), strict=True):
        try:
            image = read_image(path)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        picture = overlay(image, model.predict([image])[0], options.confidence)
        out.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(out / f"{name}.jpg"), picture[:, :, ::-1])
        drawn += 1
    if not drawn:
        raise UserError("none of the photographs could be read")
    print(f"drawings: {out.resolve()}")


def select(result: Instances, threshold: float = CONFIDENCE) -> Instances:
    """The objects that score more than the threshold, best first."""
    confident = result.select(result.scores > threshold)
    return confident.select(confident.scores.argsort(descending=True, stable=True))


def colours(numbers: Tensor) -> Tensor:
    """The colour (blue, green, red) of each class, numbered from 1 since 0 is the background. [N] -> [N, 3] uint8"""
    return (numbers[:, None] * torch.tensor(COLOUR_STEPS, device=numbers.device) % 255).to(torch.uint8)


def overlay(image: NDArray[np.uint8], result: Instances, threshold: float = CONFIDENCE) -> NDArray[np.uint8]:
    """A copy of the photograph [H, W, 3] RGB with the confident objects' boxes, outlines, names and scores."""
    picture, shown = image.copy(), select(result, threshold)
    palette = [(red, green, blue) for blue, green, red in colours(shown.labels + 1).tolist()]
    # to whole pixels towards zero, and a box is drawn through its last pixel, not after it
    corners = (shown.boxes - shown.boxes.new_tensor([0, 0, 1, 1])).to(torch.int64).tolist()
    for (x1, y1, x2, y2), colour in zip(corners, palette, strict=True):
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 1)
    if shown.masks is not None:
        for mask, colour in zip(shown.masks.cpu().numpy(), palette, strict=True):
            outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(picture, outlines, -1, colour, 3)
    for (x1, y1, *_), label, score in zip(corners, shown.labels.tolist(), shown.scores.tolist(), strict=True):
        text = f"{shown.class_names[label]}: {score:.2f}"
        cv2.putText(picture, text, (x1, y1), cv2.FONT_HERSHEY_SIMPLEX, 0.5, WHITE, 1)
    return picture


if __name__ == "__main__":
    program.run(main)
