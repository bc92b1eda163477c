"""Score a network's maps, as predict.py writes them, on photographs with masks; examples for the report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.metrics.mistakes import OVERLAP, Mistakes
from common.results import Instances
from common.run.commands import Scoring
from common.run.distributed import gather, is_main, process_count, process_index
from common.run.evaluation import Example, photographs
from common.run.runlog import Bar
from common.run.training import Metrics
from refinemask_psg.u2net.data import Photographs
from refinemask_psg.u2net.metrics import Scores, measure, summary
from refinemask_psg.u2net.network import U2Net


@dataclass
class SaliencyEvaluation:
    """The scores of every photograph, in the data set's order; complete in every process."""

    scores: list[Scores]

    @property
    def metrics(self) -> Metrics:
        return {"saliency": summary(self.scores)}

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        return {}

    @property
    def precision(self) -> Mapping[str, NDArray[np.floating[Any]]]:
        return {}

    def mistakes(self, dataset: Photographs, threshold: float) -> Mistakes:
        """The foreground is found where map and mask overlap by half."""
        overlap = np.array([each.overlap for each in self.scores])
        found = int((overlap >= OVERLAP).sum())
        confusion = np.array([[found, len(overlap) - found], [0, 0]])
        return Mistakes(dataset.class_names, confusion, overlap, None)


def evaluate_saliency(model: torch.nn.Module, dataset: Photographs, batch: int, workers: int) -> SaliencyEvaluation:
    assert isinstance(model, U2Net)
    scores = dict(gather(list(score_photographs(model, dataset, batch, workers))))
    return SaliencyEvaluation([scores[number] for number in range(len(dataset))])


def score_photographs(model: U2Net, dataset: Photographs, batch: int, workers: int) -> Iterator[tuple[int, Scores]]:
    """This process's share of the photographs, each with its number."""
    indices = range(process_index(), len(dataset), process_count())
    with Bar("evaluating", len(dataset), show=is_main()) as bar:
        for numbers, pictures in photographs(dataset, indices, batch, workers):
            for number, matte in zip(numbers, model.mattes(pictures), strict=True):
                yield number, measure(matte, dataset.matte(number) > 128)
            bar.advance(len(pictures) * process_count())


def examples(model: torch.nn.Module, dataset: Photographs, numbers: Sequence[int]) -> list[Example]:
    """Photographs with mask and map, drawn from their middle on."""
    assert isinstance(model, U2Net)
    found = []
    for number in numbers:
        sample = dataset[number]
        truth, prediction = (as_object(each, sample.image) for each in (sample.semantic, model.predict(sample.image)))
        found.append(Example(sample.path.name, sample.image, truth, prediction))
    return found


def as_object(matte: NDArray[np.uint8] | None, image: NDArray[np.uint8]) -> Instances:
    assert matte is not None
    mask, height, width = torch.from_numpy(matte > 128)[None], *matte.shape
    box = torch.tensor([[0.0, 0.0, width, height]])
    return Instances(torch.ones(1), torch.zeros(1, dtype=torch.int64), box, mask, (height, width), ("foreground",))


SCORING = Scoring(evaluate_saliency, examples, decisive=("saliency", "maxF"))
