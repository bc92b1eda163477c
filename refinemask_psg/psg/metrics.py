"""The scores of scene graphs, as OpenPSG counts them: recall of triplets, also averaged over predicates.

- A relation of the ground truth is found if among the first K predicted ones there is one of the same three classes
  whose subject and object both overlap the true ones by an IoU of at least 0.5. One may find several.
- R@K averages the images' recalls; mR@K averages, for each predicate, the recalls of the images where it occurs, and
  then over all predicates: those that occur nowhere count 0.
- As phrases ("phrdet"), subject and object only have to overlap together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Float = NDArray[np.float64]
KS = (20, 50, 100)
MIN_IOU = 0.5
RANKED_WITHOUT_CONSTRAINT = 100
WEIGHTS = {"R@20": 0.3, "mR@20": 0.6, "PQ": 0.1}  # of the challenge's ranking


@dataclass(frozen=True)
class Regions:
    """Where the segments of an image are."""

    masks: NDArray[np.bool_] | None = None  # [N, H, W]
    boxes: Float | None = None  # [N, 4] x1, y1, x2, y2

    def united(self, first: Int, second: Int) -> "Regions":
        """The regions of pairs of segments."""
        if self.masks is not None:
            return Regions(masks=self.masks[first] | self.masks[second])
        assert self.boxes is not None
        a, b = self.boxes[first], self.boxes[second]
        return Regions(boxes=np.concatenate((np.minimum(a[:, :2], b[:, :2]), np.maximum(a[:, 2:], b[:, 2:])), axis=1))


@dataclass(frozen=True)
class Graph:
    """Segments with classes, and relations between them, the best first."""

    labels: Int  # [N]
    regions: Regions
    triplets: Int  # [K, 3] subject, object, predicate


@dataclass(frozen=True)
class Found:
    """What of one image's ground truth was found."""

    predicates: Int  # [R] of the true relations
    hits: NDArray[np.bool_]  # [R, len(KS)] found among the first K


def iou(a: Regions, b: Regions) -> Float:
    """[N, M]; 0 where both are empty."""
    if a.masks is not None and b.masks is not None:
        first, second = (regions.reshape(len(regions), -1).astype(np.float32) for regions in (a.masks, b.masks))
        shared = (first @ second.T).astype(np.float64)  # exact below 2**24 pixels
        areas_a, areas_b = first.sum(axis=1, dtype=np.float64), second.sum(axis=1, dtype=np.float64)
    else:
        assert a.boxes is not None and b.boxes is not None
        low = np.maximum(a.boxes[:, None, :2], b.boxes[None, :, :2])
        high = np.minimum(a.boxes[:, None, 2:], b.boxes[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=2)
        areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a.boxes, b.boxes))
    union = areas_a[:, None] + areas_b[None, :] - shared
    overlap: Float = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def matches(truth: Graph, found: Graph, *, phrases: bool = False) -> NDArray[np.bool_]:
    """[R, K]: which predicted relation finds which true one."""
    same: NDArray[np.bool_] = truth.triplets[:, None, 2] == found.triplets[None, :, 2]
    for end in (0, 1):
        same &= truth.labels[truth.triplets[:, end]][:, None] == found.labels[found.triplets[:, end]][None, :]
    if phrases:
        pairs = (graph.regions.united(graph.triplets[:, 0], graph.triplets[:, 1]) for graph in (truth, found))
        same &= iou(*pairs) >= MIN_IOU
        return same
    overlap = iou(truth.regions, found.regions) >= MIN_IOU
    for end in (0, 1):
        same &= overlap[truth.triplets[:, end][:, None], found.triplets[:, end][None, :]]
    return same


def recall_of(truth: Graph, found: Graph, *, phrases: bool = False) -> Found:
    return first_hits(truth.triplets[:, 2], matches(truth, found, phrases=phrases))


def first_hits(predicates: Int, matched: NDArray[np.bool_]) -> Found:
    hits = np.stack([matched[:, :k].any(axis=1) for k in KS], axis=1)
    return Found(predicates, hits)


def without_duplicates(triplets: Int) -> Int:
    """The first of each triplet."""
    _, first = np.unique(triplets, axis=0, return_index=True)
    return triplets[np.sort(first)]


@dataclass(frozen=True)
class Recalls:
    """The recalls of a data set; columns are K of KS."""

    per_image: Float  # [images, K]
    per_predicate: Float  # [predicates, K] 0 where a predicate occurs nowhere
    occurs: NDArray[np.bool_]  # [predicates]

    def summary(self) -> dict[str, float]:
        """{"R@20": .., "mR@20": .., ..} as fractions."""
        scores: dict[str, float] = {}
        for column, k in enumerate(KS):
            scores[f"R@{k}"] = float(self.per_image[:, column].mean()) if len(self.per_image) else 0.0
            scores[f"mR@{k}"] = float(self.per_predicate[:, column].mean()) if len(self.per_predicate) else 0.0
        return scores


def recalls(images: Sequence[Found], predicates: int) -> Recalls:
    """Images without relations are no part of it; predicates are numbered from 0."""
    images = [image for image in images if len(image.predicates)]
    per_image = np.array([image.hits.mean(axis=0) for image in images]).reshape(-1, len(KS))
    totals, counts = np.zeros((predicates, len(KS))), np.zeros(predicates)
    for image in images:
        own, place = np.unique(image.predicates, return_inverse=True)
        sums = np.zeros((len(own), len(KS)))
        np.add.at(sums, place, image.hits)
        totals[own] += sums / np.bincount(place)[:, None]
        counts[own] += 1
    return Recalls(per_image, totals / np.maximum(counts, 1)[:, None], counts > 0)


def pair_accuracy(truth: Sequence[Graph], found: Sequence[Graph]) -> dict[str, float]:
    """A@K with true regions: of the relations, how many are found among the first K pairs that are related at all."""
    hits, relations = np.zeros(len(KS)), 0
    for true, predicted in zip(truth, found, strict=True):
        related = {(subject, target) for subject, target, _ in true.triplets.tolist()}
        is_related = [(subject, target) in related for subject, target, _ in predicted.triplets.tolist()]
        matched = matches(true, predicted)[:, np.array(is_related, bool)]
        hits += first_hits(true.triplets[:, 2], matched).hits.sum(axis=0)
        relations += len(true.triplets)
    return {f"A@{k}": float(hits[column] / max(relations, 1)) for column, k in enumerate(KS)}


def constrained(pairs: Int, predicates: NDArray[np.floating[Any]]) -> Int:
    """Each pair [N, 2] with its best predicate of [N, P], in the order given -> triplets [N, 3]."""
    return np.concatenate((pairs, predicates.argmax(axis=1)[:, None]), axis=1)


def unconstrained(
    pairs: Int, predicates: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], for_each_pair: int
) -> Int:
    """The best triplets of all, of each pair at most so many (ngR@K); scores [S] are the segments'."""
    ranks = predicates * scores[pairs].prod(axis=1)[:, None]
    order = np.argsort(ranks, axis=1)[:, ::-1][:, :for_each_pair]
    kept = np.take_along_axis(ranks, order, axis=1)
    best = np.argsort(-kept, axis=None)[:RANKED_WITHOUT_CONSTRAINT]
    row, column = np.unravel_index(best, kept.shape)
    return np.concatenate((pairs[row], order[row, column][:, None]), axis=1)


def final_score(scores: dict[str, float]) -> float:
    """What the challenge ranks by, from fractions."""
    return sum(weight * scores[name] for name, weight in WEIGHTS.items())
