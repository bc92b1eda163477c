"""Score a network's maps, as predict.py writes them, on photographs with masks; examples for the report."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.results import Instances
from common.run.distributed import gather
from common.run.evaluation import photographs
from common.run.training import Metrics
from maskworks.commands import Scoring
from maskworks.report.examples import Example
from maskworks.report.mistakes import OVERLAP, Mistakes
from refinemask_psg.u2net.data import Photographs
from refinemask_psg.u2net.metrics import Scores, measure, summary
from refinemask_psg.u2net.network import U2Net


@dataclass
class SaliencyEvaluation:
    """The scores of a data set; complete in every process."""

    metrics: Metrics
    overlap: NDArray[np.float64]  # [photographs] IoU of mask and map
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)  # there is but one
    precision: dict[str, NDArray[np.floating[Any]]] = field(default_factory=dict)

    def mistakes(self, dataset: Photographs, threshold: float) -> Mistakes:
        """The foreground is found where map and mask overlap by half."""
        found = int((self.overlap >= OVERLAP).sum())
        confusion = np.array([[found, len(self.overlap) - found], [0, 0]])
        return Mistakes(dataset.class_names, confusion, self.overlap, None)


def evaluate_saliency(model: torch.nn.Module, dataset: Photographs, batch: int, workers: int) -> SaliencyEvaluation:
    assert isinstance(model, U2Net)
    own: list[tuple[int, Scores]] = []  # of this process's share of the photographs, each with its number
    for numbers, pictures in photographs(dataset, batch, workers):
        for number, matte in zip(numbers, model.mattes(pictures), strict=True):
            own.append((number, measure(matte, dataset.matte(number) > 128)))
    scores = [score for _, score in sorted(gather(own), key=lambda each: each[0])]
    return SaliencyEvaluation({"saliency": summary(scores)}, np.array([each.overlap for each in scores]))


def examples(model: torch.nn.Module, dataset: Photographs, numbers: Sequence[int]) -> list[Example]:
    """Photographs with mask and map, drawn from their middle on."""
    assert isinstance(model, U2Net)
    found = []
    for number in numbers:
        image, matte = dataset[number].image, dataset.matte(number)
        found.append(Example(dataset.path(number).name, image, as_object(matte), as_object(model.predict(image))))
    return found


def as_object(matte: NDArray[np.uint8]) -> Instances:
    mask, height, width = torch.from_numpy(matte > 128)[None], *matte.shape
    box = torch.tensor([[0.0, 0.0, width, height]])
    return Instances(torch.ones(1), torch.zeros(1, dtype=torch.int64), box, mask, (height, width), ("foreground",))


SCORING = Scoring(evaluate_saliency, examples, SaliencyEvaluation.mistakes, ("saliency", "maxF"))
