"""A GLIP that is made in a moment, and scenes for it."""

from dataclasses import replace

import numpy as np
import torch

from glip.config import VARIANTS, Config
from glip.network import GLIP

NAMES = ("red circle", "blue star", "person in green")


def small_config(**model: object) -> Config:
    shapes = VARIANTS["shapes"]
    tiny = {"swin_width": 16, "swin_heads": (1, 2, 4, 8), "channels": 32, "blocks": 1, "fusion_width": 32}
    settings = tiny | {"fusion_heads": 2, "groups": 4} | model
    test = replace(shapes.test, short_side=96, long_side=160, score_threshold=0.0, max_detections=20)
    text = replace(shapes.text, width=32, layers=1, inner_width=32)
    return replace(shapes, model=replace(shapes.model, **settings), text=text, test=test)


def small_model(names: tuple[str, ...] = NAMES, **model: object) -> GLIP:
    torch.manual_seed(0)
    made = GLIP(small_config(**model), names)
    with torch.no_grad():  # scores that differ from box to box
        made.head.alignment.projection.weight.mul_(20)
        made.head.centerness.weight.mul_(50)
    return made.eval()


def picture(height: int = 100, width: int = 130, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
