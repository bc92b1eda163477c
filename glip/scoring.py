"""Scores: detection of named classes, phrases of captions (also as classes, seen and unseen), folders of data sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from common.data.coco import CocoDataset
from common.metrics import coco_details
from common.metrics.coco import LIMIT
from common.results import Instances
from common.run.distributed import gather
from common.run.evaluation import Evaluation, Finder, evaluate_answers, photographs
from glip.captioned_data import CaptionedDataset, PhraseClasses
from glip.network import GLIP
from glip.prompts import Caption, Prompt, class_prompt
from maskworks.commands import Scoring
from maskworks.report.examples import Example, examples_of
from maskworks.report.mistakes import Mistakes, of_instances

RANKS = (1, 5, 10)
OVERLAP = 0.5  # of a box that finds a phrase
SURE = 0.5  # the score from which a box is shown: below, a small model finds every phrase everywhere


@dataclass
class CaptionEvaluation:
    """The scores on a data set of captions."""

    metrics: dict[str, dict[str, Any]]
    phrases: Evaluation  # of the phrases as classes

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        return self.phrases.per_class

    @property
    def precision(self) -> Mapping[str, NDArray[np.floating[Any]]]:
        return self.phrases.precision

    def mistakes(self, dataset: CaptionedDataset, threshold: float) -> Mistakes:
        return of_instances(self.phrases, PhraseClasses(dataset), threshold)


def evaluate_classes(
    model: GLIP,
    dataset: CocoDataset | PhraseClasses,
    batch_size: int,
    workers: int,
    prompt: Prompt | None = None,
    limit: int = LIMIT,
) -> Evaluation:
    """Boxes of the data set's classes, asked for by their names or, in the same order, by those of a prompt."""
    asked = prompt or class_prompt(dataset.class_names, model.tokeniser, model.config.text)
    return evaluate_answers(from_prompt(model, asked), dataset, batch_size, workers, ("bbox",), limit)


def from_prompt(model: GLIP, prompt: Prompt) -> Finder:
    return lambda numbers, images: model.predict(images, prompt)


def evaluate_captions(model: GLIP, dataset: CaptionedDataset, batch_size: int, workers: int) -> CaptionEvaluation:
    """Phrases as classes: all of them, seen and never seen in training; and each caption's phrases, by recall."""
    classes = PhraseClasses(dataset)
    whole = evaluate_classes(model, classes, batch_size, workers)
    annotations = classes.annotations_json()
    metrics: dict[str, dict[str, Any]] = dict(whole.metrics)
    if classes.held_out:
        seen = set(classes.class_names) - classes.held_out
        for kind, names in (("seen", seen), ("unseen", classes.held_out)):
            chosen = {i for i, name in zip(classes.category_ids, classes.class_names, strict=True) if name in names}
            metrics[kind] = score_of(annotations, whole.detections, chosen)
    metrics["grounding"] = recall(model, dataset, workers)
    return CaptionEvaluation(metrics, whole)


def score_of(annotations: dict[str, Any], detections: list[dict[str, Any]], categories: set[int]) -> dict[str, float]:
    """Box mAP of some of the classes."""
    chosen = {
        **annotations,
        "annotations": [entry for entry in annotations["annotations"] if entry["category_id"] in categories],
        "categories": [entry for entry in annotations["categories"] if entry["id"] in categories],
    }
    found = [entry for entry in detections if entry["category_id"] in categories]
    return dict(coco_details(chosen, found, "bbox").summary)


def recall(model: GLIP, dataset: CaptionedDataset, workers: int) -> dict[str, float]:
    """Of the phrases, how many have a box that overlaps one of theirs among the best 1, 5, 10: Flickr30k's R@k."""
    hits: list[NDArray[np.bool_]] = []
    for (number,), images in photographs(dataset.boxes, 1, workers, "grounding"):
        caption = dataset.caption(number)
        scored = dataset.scored[number] or list(caption.phrases)
        phrases = [phrase for phrase in caption.phrases if phrase in scored]
        if phrases:
            asked = Prompt(tuple(map(str, phrases)), (Caption.naming(caption.text, phrases),))
            found = model.predict(images, asked)[0]
            hits += [np.array(hit) for hit in ranks_hit(found, boxes_of(dataset, number, phrases))]
    every = np.array(gather(hits)).reshape(-1, len(RANKS))
    return {f"R@{rank}": float(every[:, place].mean()) if len(every) else -1.0 for place, rank in enumerate(RANKS)}


def boxes_of(dataset: CaptionedDataset, index: int, phrases: Sequence[object]) -> list[Tensor]:
    """The true boxes [n, 4] of each phrase of an image."""
    start, end = dataset.boxes.offsets[index : index + 2].tolist()
    corners = torch.from_numpy(dataset.boxes.boxes[start:end]).float()
    corners = torch.cat((corners[:, :2], corners[:, :2] + corners[:, 2:]), dim=1)
    owners = dataset.owners_of(index)
    return [corners[[place for place, owner in enumerate(owners) if owner == phrase]] for phrase in phrases]


def ranks_hit(found: Instances, truths: Sequence[Tensor]) -> list[list[bool]]:
    """For each phrase, whether one of its best 1, 5, 10 boxes overlaps one of its true boxes."""
    hits = []
    for label, truth in enumerate(truths):
        boxes = found.boxes[found.labels == label].cpu()  # best first
        right = (box_iou(boxes, truth) >= OVERLAP).any(dim=1)
        hits.append([bool(right[:rank].any()) for rank in RANKS])
    return hits


def caption_examples(model: GLIP, dataset: CaptionedDataset, numbers: Sequence[int]) -> list[Example]:
    """Pictures for the report: what the names of all phrases find, beside what is there."""
    classes = PhraseClasses(dataset)
    asked = class_prompt(classes.class_names, model.tokeniser, model.config.text)
    return examples_of(from_prompt(model, asked), classes, numbers)


CLASSES = Scoring(evaluate=evaluate_classes, decisive=("bbox", "AP"), threshold=SURE, limited=True)
CAPTIONS = Scoring(evaluate_captions, caption_examples, CaptionEvaluation.mistakes, ("bbox", "AP"), threshold=SURE)
