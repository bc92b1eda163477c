"""Scores of saliency maps, each as pysodmetrics computes it: MAE, F-measure, S-measure (Fan et al., ICCV 2017).

A map has 256 values at most, so that all but the S-measure's regions follow from two histograms: the map's where the
mask is, and where it isn't.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
BETA = 0.3  # beta squared: what recall counts against precision
ALPHA = 0.5  # what objects count against regions in the S-measure
EPSILON = float(np.spacing(1))


class Scores(NamedTuple):
    """Of one photograph's map."""

    error: float  # mean absolute error
    curve: Floats  # [256] F-measure at falling thresholds
    adaptive: float  # F-measure at twice the map's mean
    structure: float  # S-measure
    overlap: float  # IoU of mask and map, the latter from its middle on


def measure(matte: NDArray[np.uint8], truth: NDArray[np.bool_]) -> Scores:
    """matte, truth: [H, W]"""
    values = stretched(matte)
    inside, outside = (np.bincount(matte[where], minlength=256).astype(float) for where in (truth, ~truth))  # [256]
    there, pixels = int(inside.sum()), truth.size
    bins = (values * 255).astype(np.uint8)
    hits, claims = (np.bincount(bins, counts, minlength=256)[::-1].cumsum() for counts in (inside, inside + outside))
    threshold = min(2 * float(values[matte].mean()), 1.0)
    adaptive = [counts[values >= threshold].sum() for counts in (inside, inside + outside)]
    middle = [counts[values >= 0.5].sum() for counts in (inside, outside)]
    return Scores(
        error=float(inside @ (1 - values) + outside @ values) / pixels,
        curve=f_measure(hits, claims, there),
        adaptive=float(f_measure(adaptive[0], adaptive[1], there)),
        structure=s_measure(values, matte, truth, inside, outside),
        overlap=float(middle[0] / (there + middle[1])) if there + middle[1] else 1.0,
    )


def summary(scores: list[Scores]) -> dict[str, float]:
    """Over a data set: curves are averaged over the photographs before their maximum is taken."""
    curve = np.mean([each.curve for each in scores], axis=0)
    return {
        "MAE": float(np.mean([each.error for each in scores])),
        "maxF": float(curve.max()),
        "meanF": float(curve.mean()),
        "adaptiveF": float(np.mean([each.adaptive for each in scores])),
        "S": float(np.mean([each.structure for each in scores])),
    }


def stretched(matte: NDArray[np.uint8]) -> Floats:
    """What each byte counts as: from 0 to 1 over those that the map has, unless it has but one. [256]"""
    values = np.arange(256) / 255
    low, high = values[matte.min()], values[matte.max()]
    return values if low == high else np.clip((values - low) / (high - low), 0, 1)


def f_measure(hits: Floats, claims: Floats, there: int) -> Floats:
    """Of so many right pixels, so many claimed ones, and so many of the mask."""
    precision, recall = hits / np.maximum(claims, 1), hits / max(there, 1)
    both = (1 + BETA) * precision * recall
    return np.asarray(both / np.where(both == 0, 1, BETA * precision + recall))


def s_measure(
    values: Floats, matte: NDArray[np.uint8], truth: NDArray[np.bool_], inside: Floats, outside: Floats
) -> float:
    share = float(truth.mean())
    if share in (0, 1):
        mean = float((inside + outside) @ values) / truth.size
        return mean if share else 1 - mean
    objects = share * s_object(values, inside) + (1 - share) * s_object(1 - values, outside)
    return max(0.0, ALPHA * objects + (1 - ALPHA) * s_regions(values[matte], truth))


def s_object(values: Floats, counts: Floats) -> float:
    """How high and even the values are that so many pixels have."""
    pixels = counts.sum()
    mean = counts @ values / pixels
    spread = np.sqrt(counts @ (values - mean) ** 2 / (pixels - 1)) if pixels > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + spread + EPSILON))


def s_regions(image: Floats, truth: NDArray[np.bool_]) -> float:
    """The quarters around the mask's centre of mass, each by its likeness and size; an empty one has none."""
    row, column = (int(np.mean(places).round()) + 1 for places in np.nonzero(truth))
    halves = (slice(row), slice(row, None)), (slice(column), slice(column, None))
    parts = [(image[part], truth[part]) for part in product(*halves)]
    return sum(mask.size / truth.size * likeness(values, mask) for values, mask in parts if mask.size)


def likeness(image: Floats, truth: NDArray[np.bool_]) -> float:
    """Structural similarity of a part of the map and of the mask: of means, contrasts and where they rise."""
    x, y = image.mean(), truth.mean()
    from_x, from_y, spread = image - x, truth - y, image.size - 1 + EPSILON
    together = 4 * x * y * (from_x * from_y).sum() / spread
    total = (x**2 + y**2) * ((from_x**2).sum() + (from_y**2).sum()) / spread
    return float(together / (total + EPSILON)) if together != 0 else float(total == 0)
