"""Prediction in batches: images whose padded sizes agree go through the network together."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data.batches import Prepared
from common.data.images import read_image
from common.results import PictureSource
from common.run.model import Source

Answers = TypeVar("Answers")


class OfPicture(Protocol):
    """A result remembers its photograph, to draw on it."""

    image: PictureSource


R = TypeVar("R", bound=OfPicture)


def predict_in_groups(
    images: Sequence[Source],
    preprocess: Callable[[NDArray[np.uint8]], Prepared],
    answer: Callable[[Tensor], Answers],
    result: Callable[[Answers, int, Prepared], R],
    device: torch.device,
) -> list[R]:
    """preprocess(image) -> network input; answer(inputs [N, 3, H, W]); result(answers, row, prepared) for each image.

    Images of other padded sizes don't share a batch, since padding further would move the coordinates and borders
    that a network sees and so change its answers.
    """
    arrays = [image if isinstance(image, np.ndarray) else read_image(Path(image)) for image in images]
    prepared = [preprocess(array) for array in arrays]
    groups: dict[torch.Size, list[int]] = {}
    for index, item in enumerate(prepared):
        groups.setdefault(item.tensor.shape, []).append(index)
    results: dict[int, R] = {}
    for indices in groups.values():
        batch = torch.stack([prepared[index].tensor for index in indices]).to(device, non_blocking=True)
        answers = answer(batch)
        for row, index in enumerate(indices):
            results[index] = result(answers, row, prepared[index])
            source = images[index]
            results[index].image = source if isinstance(source, np.ndarray) else Path(source)
    return [results[index] for index in range(len(arrays))]
