"""Twelve training pictures as the network gets them, drawn into the run's folder before the first step."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.batches import Target
from common.data.loader import Steps, Trainable
from common.drawing import label_colours, paint_box, paint_mask
from common.errors import UserError
from common.results import Instances
from common.run.distributed import is_main
from common.run.settings import Training
from maskworks.report.details import readable_scale, save_picture

COUNT = 12


def write_training_pictures(folder: Path, training_set: Trainable, settings: Training) -> None:
    """RUN/examples/training-01.jpg, ...: what the first steps see, augmented and scaled, with what it is to learn."""
    if not settings.report or not is_main():
        return
    steps = Steps(training_set.dataset.sizes, settings.batch_size, settings.seed, 0, 1)
    indices = dict.fromkeys(steps.epoch_batches(0).ravel().tolist())
    for number, index in enumerate(list(indices)[:COUNT], start=1):
        item = training_set[0, index]
        if isinstance(item, UserError):
            return  # the step that comes to it says so
        save_picture(folder / f"examples/training-{number:02}.jpg", drawn(*item, training_set.dataset.class_names))


def drawn(image: Tensor, target: Target, class_names: Sequence[str]) -> Image.Image:
    """An image [3, H, W] with masks, boxes, joints, and the classes of what is no object; a small one is enlarged."""
    pixels = image.permute(1, 2, 0).numpy().copy()
    scale, labels = readable_scale(pixels), target.labels.tolist()
    if target.semantic is not None:
        semantic = target.semantic.numpy()
        stuff = [value for value in np.unique(semantic).tolist() if value < len(class_names) and value not in labels]
        for value, colour in zip(stuff, label_colours(stuff), strict=True):
            paint_mask(pixels, semantic == value, colour)
    fits = target.masks.shape[-2:] == image.shape[-2:]  # some packages keep masks at another size, or not at all
    most = max(labels, default=0)
    truth = Instances(
        torch.ones(len(labels)),
        target.labels,
        target.boxes,
        target.masks if fits else None,
        (image.shape[1], image.shape[2]),
        tuple(class_names) if most < len(class_names) else ("",) * (most + 1),  # phrases of a caption have no names
        target.keypoints,
    )
    picture = np.array(truth.draw(pixels, -math.inf, scale=scale, with_scores=False))
    for box, colour in zip((target.boxes * scale).tolist(), label_colours(labels), strict=True):
        paint_box(picture, box, colour)
    return Image.fromarray(picture)
