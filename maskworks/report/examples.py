"""Validation images with ground truth and prediction, for the report."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.coco import LabelledImages, Sample
from common.results import Instances, Result
from common.run.evaluation import Finder, from_pixels
from common.run.model import Model


@dataclass
class Example:
    """One validation image with its ground truth and what the model said."""

    name: str
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    truth: Result
    prediction: Result


def examples(model: Model[Instances], dataset: LabelledImages, numbers: Sequence[int]) -> list[Example]:
    return examples_of(from_pixels(model), dataset, numbers)


def examples_of(answer: Finder, dataset: LabelledImages, numbers: Sequence[int]) -> list[Example]:
    """Images of the data set with ground truth and prediction, for the report."""
    found = []
    for number in numbers:
        sample = dataset[number]
        (prediction,) = answer([number], [sample.image])
        truth = ground_truth(sample, dataset.class_names)
        found.append(Example(sample.path.name, sample.image, truth, prediction))
    return found


def ground_truth(sample: Sample, class_names: tuple[str, ...]) -> Instances:
    """A sample's annotations, crowds left out, in the form of a result."""
    keep = ~sample.crowd
    labels = torch.from_numpy(sample.labels[keep])
    return Instances(
        scores=torch.ones(len(labels)),
        labels=labels,
        boxes=torch.from_numpy(sample.boxes[keep]),
        masks=torch.from_numpy(sample.masks[keep]),
        size=(sample.image.shape[0], sample.image.shape[1]),
        class_names=class_names,
        image=sample.image,
    )
