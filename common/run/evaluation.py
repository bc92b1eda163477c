"""Run a model over a COCO-format data set and score it; photographs are shared out over the processes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from common.data.coco import AnnotatedImages, LabelledImages
from common.data.images import read_image
from common.data.loader import single_threaded, worker_count
from common.errors import UserError
from common.metrics import CocoDetails, coco_details
from common.metrics.coco import LIMIT
from common.metrics.coco_input import Kind
from common.results import Instances
from common.run.distributed import gather, is_main, process_count, process_index
from common.run.model import Model, Picture
from common.run.runlog import Bar

Detection = dict[str, Any]
# the photographs' numbers in the data set, the photographs -> results
Finder = Callable[[Sequence[int], Sequence[Picture]], Sequence[Instances]]


def from_pixels(model: Model[Instances]) -> Finder:
    """The usual way to a model's results; others know more than the photographs."""
    return lambda numbers, images: model.predict(images)


@dataclass
class Evaluation:
    """The scores of a model on a data set; complete in every process."""

    details: dict[str, CocoDetails]  # for "segm" and "bbox"
    detections: list[Detection]  # in COCO's results format

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        return {kind: details.summary for kind, details in self.details.items()}

    @property
    def kind(self) -> Literal["segm", "bbox"]:
        """What the report goes into."""
        return "segm" if "segm" in self.details else "bbox"

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        return {f"{kind} AP": details.per_class for kind, details in self.details.items()}

    @property
    def precision(self) -> Mapping[str, NDArray[np.floating[Any]]]:
        return self.details[self.kind].precision


def evaluate_instances(
    model: Model[Instances],
    dataset: AnnotatedImages,
    batch_size: int,
    workers: int,
    kinds: tuple[Kind, ...] = ("segm", "bbox"),
    limit: int = LIMIT,
) -> Evaluation:
    return evaluate_answers(from_pixels(model), dataset, batch_size, workers, kinds, limit)


def evaluate_answers(
    answer: Finder,
    dataset: AnnotatedImages,
    batch_size: int,
    workers: int,
    kinds: tuple[Kind, ...],
    limit: int = LIMIT,
) -> Evaluation:
    """Of each class in an image, the `limit` best detections count."""
    detections = gather(detect(answer, dataset, batch_size, workers))
    annotations = dataset.annotations_json()
    details: dict[str, CocoDetails] = {
        kind: coco_details(annotations, scored_for(kind, detections), kind, limit) for kind in kinds
    }
    return Evaluation(details, detections)


def scored_for(kind: Kind, detections: list[Detection]) -> list[Detection]:
    """Masks are ranked by their own scores where a model gives any."""
    if kind != "segm" or not any("mask_score" in detection for detection in detections):
        return detections
    return [detection | {"score": detection.get("mask_score", detection["score"])} for detection in detections]


def detect(answer: Finder, dataset: AnnotatedImages, batch_size: int, workers: int) -> list[Detection]:
    """This process's share of the detections; of each image only their RLE is kept."""
    detections: list[Detection] = []
    for numbers, images in photographs(dataset, batch_size, workers):
        for number, result in zip(numbers, answer(numbers, images), strict=True):
            detections += result.to_coco(int(dataset.image_ids[number]), dataset.category_ids)
    return detections


def photographs(
    dataset: LabelledImages, batch_size: int, workers: int, title: str = "evaluating"
) -> Iterator[tuple[list[int], list[NDArray[np.uint8]]]]:
    """Batches of this process's share of the photographs, with their numbers, read ahead by workers; with a bar."""
    loader: DataLoader[Any] = DataLoader(
        _Photographs(dataset, range(process_index(), len(dataset), process_count())),
        batch_size,
        num_workers=worker_count(workers),
        collate_fn=list,
        worker_init_fn=single_threaded,
    )
    with Bar(title, len(dataset), show=is_main()) as bar:
        for batch in loader:
            for item in batch:
                if isinstance(item, UserError):
                    raise item
            yield [number for number, _ in batch], [image.numpy() for _, image in batch]
            bar.advance(len(batch) * process_count())


class _Photographs(Dataset[Any]):
    def __init__(self, dataset: LabelledImages, indices: range):
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, Tensor] | UserError:
        number = self.indices[position]
        try:
            return number, torch.from_numpy(read_image(self.dataset.path(number)))
        except UserError as error:  # returned, so that it crosses the process border as one line
            return error
