"""Run UPSNet over a data set and score it: PQ decides; box and mask AP and semantic mIoU are told beside it.

Photographs are shared out over the processes. What one keeps of an image is small: which ids of truth and prediction
meet in how many pixels, the instances' RLE, and how often each class was taken for which. So the scores of many
processes are those of one, to the last bit.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from common.data.batches import UNLABELLED
from common.data.coco import Sample
from common.data.images import read_ids
from common.metrics import CocoDetails, coco_details
from common.metrics.coco_input import Kind
from common.metrics.panoptic import Pairs, count_pairs, quality_of_pairs
from common.ops import masks as rle
from common.results import Panoptic, Segment
from common.run.distributed import gather
from common.run.evaluation import photographs
from maskworks.commands import Scoring
from maskworks.report.examples import Example
from maskworks.report.mistakes import Mistakes, compare_segments, sum_up
from upsnet.network import UPSNet
from upsnet.panoptic_data import PanopticDataset
from upsnet.postprocess import Everything

Json = dict[str, Any]
Int = NDArray[np.int64]


@dataclass
class Counted:
    """What is kept of one image."""

    number: int  # in the data set
    pairs: Pairs  # of true and predicted ids
    prediction: Json  # the entry of COCO's panoptic format
    detections: list[Json]  # in COCO's result format
    objects: list[Json]  # the true things, as COCO annotates objects
    confusion: Int  # [classes, classes] pixels of each true class that were given each class


@dataclass
class PanopticEvaluation:
    """The scores of a model on a data set; complete in every process."""

    metrics: dict[str, Json]  # "panoptic", "segm", "bbox", "semantic"
    predictions: list[Json]  # the entries of COCO's panoptic format
    wrong: Mistakes
    details: dict[str, CocoDetails]

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Quality of all classes, AP of things."""
        names, rows = self.wrong.class_names, self.metrics["panoptic"]["per_class"].values()
        quality = {
            name: row["pq"] if row["tp"] + row["fp"] + row["fn"] else math.nan
            for name, row in zip(names, rows, strict=True)
        }
        return {"PQ": quality} | {f"{kind} AP": details.per_class for kind, details in self.details.items()}

    @property
    def precision(self) -> Mapping[str, NDArray[np.floating[Any]]]:
        return self.details["segm"].precision

    def mistakes(self, dataset: PanopticDataset, threshold: float) -> Mistakes:
        return self.wrong  # every segment counts, however unsure


def evaluate_panoptic_model(
    model: UPSNet, dataset: PanopticDataset, batch: int, workers: int, folder: Path | None = None
) -> PanopticEvaluation:
    """All scores; the predicted PNGs are written into the folder, if one is named.

    Photographs are answered one at a time, whatever the batch: together, numbers may round otherwise, and the batches
    would change with the number of processes.
    """
    counted: list[Counted] = []
    for numbers, images in photographs(dataset, 1, workers):
        for number, found in zip(numbers, model.predict_everything(images), strict=True):
            counted.append(count(dataset, number, found))
            if folder is not None:
                found.panoptic.to_png().save(folder / counted[-1].prediction["file_name"])
    return score(dataset, sorted(gather(counted), key=lambda each: each.number))


def count(dataset: PanopticDataset, number: int, found: Everything) -> Counted:
    """Compare one image's answer with its ground truth."""
    identity = int(dataset.image_ids[number])
    segments, labels = dataset.segments(number), dataset.segment_labels(number)
    prediction = found.panoptic.to_coco(identity, dataset.category_ids, f"{dataset.picture_path(number).stem}.png")
    truth = np.append(labels, UNLABELLED)[segments]
    confusion = confuse(truth, found.semantic.cpu().numpy().astype(np.int64), len(dataset.class_names))
    return Counted(
        number,
        count_pairs(read_ids(dataset.picture_path(number)), found.panoptic.segments.cpu().numpy().astype(np.int64)),
        prediction,
        found.instances.to_coco(identity, dataset.category_ids),
        objects_of(dataset, number, segments),
        confusion,
    )


def confuse(truth: Int, found: Int, classes: int) -> Int:
    """[classes, classes]: pixels of each true class (rows) that were given each class; unlabelled ones left out."""
    labelled = truth != UNLABELLED
    return np.bincount(truth[labelled] * classes + found[labelled], minlength=classes**2).reshape(classes, classes)


def objects_of(dataset: PanopticDataset, number: int, segments: Int) -> list[Json]:
    """The things of one image's PNG as COCO's annotations of objects; they are numbered later."""
    labels, crowd = dataset.segment_labels(number), dataset.segment_crowd(number)
    things, masks = dataset.things(number, segments)
    codes = rle.encode(masks)
    return [
        {
            "image_id": int(dataset.image_ids[number]),
            "category_id": dataset.category_ids[labels[at]],
            "iscrowd": int(crowd[at]),
            "area": float(area),
            "bbox": box,
            "segmentation": code,
        }
        for at, code, area, box in zip(things, codes, rle.area(codes).tolist(), rle.boxes(codes).tolist(), strict=True)
    ]


def score(dataset: PanopticDataset, counted: Sequence[Counted]) -> PanopticEvaluation:
    """The scores of all images, in the data set's order."""
    predictions = [each.prediction for each in counted]
    content = dataset.annotations_json()
    truths, founds = ([each["segments_info"] for each in own] for own in (content["annotations"], predictions))
    pairs = [each.pairs for each in counted]
    metrics: dict[str, Json] = {"panoptic": quality_of_pairs(truths, founds, pairs, content["categories"])}
    details = instance_details(dataset, counted)
    metrics |= {kind: each.summary for kind, each in details.items()}
    metrics["semantic"] = {"mIoU": mean_iou(np.sum([each.confusion for each in counted], axis=0))}
    labels = {identity: label for label, identity in enumerate(dataset.category_ids)}
    compared = (compare_segments(*each, labels) for each in zip(pairs, truths, founds, strict=True))
    wrong = sum_up(dataset.class_names, compared, threshold=None)
    return PanopticEvaluation(metrics, predictions, wrong, details)


def instance_details(dataset: PanopticDataset, counted: Sequence[Counted]) -> dict[str, CocoDetails]:
    """Box and mask AP of the things, as the PNGs show them: where objects overlap, only what is in front."""
    objects = [entry for each in counted for entry in each.objects]
    sizes = zip(dataset.image_ids.tolist(), dataset.sizes.tolist(), strict=True)
    things = list(zip(dataset.category_ids, dataset.class_names, strict=True))[: dataset.thing_count]
    annotations = {
        "images": [{"id": identity, "height": height, "width": width} for identity, (height, width) in sizes],
        "annotations": [{"id": number} | entry for number, entry in enumerate(objects, start=1)],
        "categories": [{"id": identity, "name": name} for identity, name in things],
    }
    detections = [entry for each in counted for entry in each.detections]
    kinds: tuple[Kind, ...] = ("segm", "bbox")
    return {kind: coco_details(annotations, detections, kind) for kind in kinds}


def mean_iou(confusion: Int) -> float | None:
    """Intersection over union, averaged over the classes that occur in the ground truth."""
    right, true, found = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    occurs = true > 0
    return float((right[occurs] / (true + found - right)[occurs]).mean()) if occurs.any() else None


def panoptic_examples(model: UPSNet, dataset: PanopticDataset, numbers: Sequence[int]) -> list[Example]:
    """Images of the data set with ground truth and prediction, for the report."""
    found = []
    for number in numbers:
        sample = dataset[number]
        (prediction,) = model.predict([sample.image])
        found.append(Example(sample.path.name, sample.image, panoptic_truth(dataset, number, sample), prediction))
    return found


def panoptic_truth(dataset: PanopticDataset, number: int, sample: Sample) -> Panoptic:
    """A sample's ground truth in the form of a result."""
    segments, labels = dataset.segments(number), dataset.segment_labels(number).tolist()
    infos = [Segment(at + 1, label, label < dataset.thing_count) for at, label in enumerate(labels)]
    numbered, size = torch.from_numpy(segments + 1).to(torch.int32), (sample.image.shape[0], sample.image.shape[1])
    return Panoptic(numbered, infos, dataset.class_names, size, sample.image)


SCORING = Scoring(evaluate_panoptic_model, panoptic_examples, PanopticEvaluation.mistakes, ("panoptic", "All", "pq"))
