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
Regions = NDArray[Any]  # masks [N, H, W] bool, or boxes [N, 4] x1, y1, x2, y2
KS = (20, 50, 100)
MIN_IOU = 0.5
WEIGHTS = {"R@20": 0.3, "mR@20": 0.6, "PQ": 0.1}  # of the challenge's ranking


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


def recall_of(truth: Graph, found: Graph, *, phrases: bool = False) -> Found:
    matched = matches(truth, found, phrases=phrases)
    return Found(truth.triplets[:, 2], np.stack([matched[:, :k].any(axis=1) for k in KS], axis=1))


def matches(truth: Graph, found: Graph, *, phrases: bool = False) -> NDArray[np.bool_]:
    """[R, K]: which predicted relation finds which true one."""
    same: NDArray[np.bool_] = truth.triplets[:, None, 2] == found.triplets[None, :, 2]
    for end in (0, 1):
        same &= truth.labels[truth.triplets[:, end]][:, None] == found.labels[found.triplets[:, end]][None, :]
    if phrases:
        same &= iou(*(united(each.regions[each.triplets[:, :2]]) for each in (truth, found))) >= MIN_IOU
        return same
    overlap = iou(truth.regions, found.regions) >= MIN_IOU
    for end in (0, 1):
        same &= overlap[truth.triplets[:, end][:, None], found.triplets[:, end][None, :]]
    return same


def united(pairs: Regions) -> Regions:
    """Pairs of regions [K, 2, ...] -> the region of both [K, ...]."""
    if pairs.dtype == np.bool_:
        return np.asarray(pairs.any(axis=1))
    return np.concatenate((pairs[:, :, :2].min(axis=1), pairs[:, :, 2:].max(axis=1)), axis=1)


def iou(a: Regions, b: Regions) -> Float:
    """[N, M]; 0 where both are empty."""
    if a.dtype == np.bool_:
        first, second = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (a, b))
        shared = (first @ second.T).astype(np.float64)  # exact below 2**24 pixels
        areas_a, areas_b = first.sum(axis=1, dtype=np.float64), second.sum(axis=1, dtype=np.float64)
    else:
        low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=2)
        areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b))
    union = areas_a[:, None] + areas_b[None, :] - shared
    overlap: Float = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def recalls(images: Sequence[Found], predicates: int) -> Recalls:
    """Images without relations are no part of it; predicates are numbered from 0."""
    images = [image for image in images if len(image.predicates)]
    per_image = np.array([image.hits.mean(axis=0) for image in images]).reshape(-1, len(KS))
    totals, counts = np.zeros((predicates, len(KS))), np.zeros(predicates)
    for image in images:
        for predicate in np.unique(image.predicates):
            totals[predicate] += image.hits[image.predicates == predicate].mean(axis=0)
            counts[predicate] += 1
    return Recalls(per_image, totals / np.maximum(counts, 1)[:, None], counts > 0)


def without_duplicates(triplets: Int) -> Int:
    """The first of each triplet."""
    _, first = np.unique(triplets, axis=0, return_index=True)
    return triplets[np.sort(first)]


def final_score(scores: dict[str, float]) -> float:
    """What the challenge ranks by, from fractions."""
    return sum(weight * scores[name] for name, weight in WEIGHTS.items())
