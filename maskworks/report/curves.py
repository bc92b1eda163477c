"""The curves of a report: read from a run's log, thinned, and described for the page's script."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import read_text

Series = dict[str, Any]  # name, x, y
Chart = dict[str, Any]  # title, x (the axis), series; smooth, loss (may be logarithmic), whole (x), range (y)

CURVE_POINTS = 600  # a longer log is averaged down to so many points
LAST_CURVES = ("lr", "images_per_second")  # every other number of a step line comes before these


def read_log(log: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The step lines and the evaluation lines of log.jsonl, in order; without a line that a crash cut off."""
    steps: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, Any]] = {}
    text = read_text(log, errors="replace") if log.exists() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        scored = isinstance(entry, dict) and isinstance(entry.get("metrics", {}), dict)
        if scored and type(entry.get("step")) is int and is_number(entry["step"]):
            # A resumed run may say a step twice: the last word counts.
            (evaluations if "metrics" in entry else steps)[entry["step"]] = entry
    return [steps[step] for step in sorted(steps)], [evaluations[step] for step in sorted(evaluations)]


def loss_charts(steps: Sequence[Mapping[str, Any]]) -> dict[str, Chart]:
    """A chart for every number that the step lines carry: loss terms first, then lr and images per second."""
    names = list(dict.fromkeys(name for line in steps for name in line if name not in ("step", "epoch")))
    names = [name for name in names if any(is_number(line.get(name)) for line in steps)]
    names = [name for name in names if name not in LAST_CURVES] + [name for name in LAST_CURVES if name in names]
    x = [line["step"] for line in steps]
    charts = {}
    for name in names:
        y = [float(line[name]) if is_number(line.get(name)) else math.nan for line in steps]
        charts[f"curve {name}"] = {
            "title": name.replace("_", " "),
            "x": "step",
            "series": [thin(name, x, y)],
            "smooth": name != "lr",
            "loss": name not in LAST_CURVES,
            "whole": True,
        }
    return charts


def score_charts(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Chart]:
    """The main scores of each kind over the epochs."""
    charts = {}
    for kind in dict.fromkeys(kind for line in evaluations for kind in line["metrics"]):
        lines = [line for line in evaluations if isinstance(line["metrics"].get(kind), Mapping)]
        history = [(line.get("epoch", line["step"]), flat_scores(line["metrics"][kind])) for line in lines]
        names = [
            name for name in ("AP", "AP50", "AP75", "pq", "sq", "rq") if any(name in scores for _, scores in history)
        ]
        names = names or list(dict.fromkeys(name for _, scores in history for name in scores))[:4]
        series = [
            {
                "name": name,
                "x": [epoch for epoch, _ in history],
                "y": [known(s.get(name, math.nan)) for _, s in history],
            }
            for name in names
        ]
        if series:
            charts[f"score {kind}"] = {
                "title": kind,
                "x": "epoch",
                "series": series,
                "smooth": False,
                "whole": True,
            }
    return charts


def flat_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one kind of metrics; of panoptic quality, those over all classes."""
    if isinstance(scores.get("All"), Mapping):
        scores = scores["All"]
    return {name: float(value) for name, value in scores.items() if is_number(value)}


def thin(name: str, x: Sequence[int], y: Sequence[float]) -> Series:
    """A series of at most CURVE_POINTS points: means over bins of equal length."""
    places, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    bins = np.arange(len(values)) // max(1, math.ceil(len(values) / CURVE_POINTS))  # [n] which bin a line is in
    filled = np.isfinite(values)
    counts = np.bincount(bins, filled)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(bins, np.where(filled, values, 0)) / counts
    centres = np.bincount(bins, places) / np.bincount(bins)
    return {
        "name": name,
        "x": np.rint(centres).astype(int).tolist(),
        "y": [known(value) for value in means.tolist()],
    }


def known(value: float) -> float | None:
    """JSON has no nan: a missing value is null. Six digits are enough to draw."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number (true and false are not)."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)  # that a float can hold


def precision_series(precision: Mapping[str, Sequence[float | None]]) -> list[Series]:
    """Precision over recall for every class that has one; -1 or None stands for nothing to measure."""
    series = []
    for name, values in precision.items():
        curve = np.asarray(values, dtype=np.float64)
        if curve.size and np.isfinite(curve).all() and curve.min() >= 0:
            recall = np.linspace(0, 1, curve.size).round(4).tolist()
            series.append({"name": name, "x": recall, "y": curve.round(4).tolist()})
    return series


def precision_chart(series: Sequence[Series]) -> Chart:
    """The mean curve; the page's script adds the curve of one class."""
    lengths = {len(one["y"]) for one in series}
    mean = []
    if len(lengths) == 1:
        values = np.mean([one["y"] for one in series], axis=0).round(4).tolist()
        mean = [{"name": "mean of all classes", "x": series[0]["x"], "y": values}]
    title = "precision at IoU 0.50"
    return {"title": title, "x": "recall", "series": mean, "smooth": False, "range": [0, 1]}
