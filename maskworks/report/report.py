"""A run or a set of predictions as one HTML file that needs no network: scores, curves, pictures.

- Tables and pictures are plain HTML; report_page.html holds style and script (curves, sorting, filters).
- Every name from outside is escaped, and the page forbids itself to load anything.
"""

import json
import math
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from common.drawing import readable_scale
from common.results import Instances, Result, SceneGraph
from maskworks.report.curves import (
    Chart,
    Series,
    flat_scores,
    is_number,
    loss_charts,
    precision_chart,
    precision_series,
    read_log,
    score_charts,
)
from maskworks.report.mistakes import OVERLAP, THRESHOLD, Mistakes
from maskworks.report.page import (
    bar_table,
    choice,
    confusion_table,
    escape,
    fact_table,
    jpeg,
    number_table,
    picture,
    section,
    tile_list,
    write_page,
)

CONFUSED_CLASSES = 20  # a larger table cannot be read
CURVE_CONTROLS = (
    '<div class="controls"><label>smoothing <input type="range" id="smoothing" min="0" max="0.99" '
    'step="0.01" value="0.8"></label>'
    '<label><input type="checkbox" id="logarithmic"> logarithmic</label></div>'
)
PACKAGES = ("maskworks", "torch", "torchvision", "numpy", "opencv-python-headless", "hotcoco")


@dataclass
class Example:
    """One validation image with its ground truth and what the model said."""

    name: str
    image: NDArray[np.uint8]  # [H, W, 3] RGB
    truth: Result
    prediction: Result


@dataclass
class Entry:
    """One image of a prediction report: a small picture and what was found, or why it was skipped."""

    name: str
    picture: bytes = b""  # JPEG
    labels: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    threshold: float = THRESHOLD  # what scores less is not drawn
    skipped: str = ""


def make_entry(name: str, drawing: Image.Image, result: Result, threshold: float = THRESHOLD) -> Entry:
    """The entry of a drawn result; keeps a small JPEG only, so that thousands fit into memory.

    Beside a scene graph's drawing stands the graph alone.
    """
    if isinstance(result, SceneGraph):
        drawing = beside(drawing, result.diagram(threshold, size=(drawing.height, drawing.width)))
    return Entry(name, jpeg(drawing), *labels_and_scores(result), threshold)


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    whole = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
    whole.paste(left, (0, 0))
    whole.paste(right, (left.width, 0))
    return whole


def labels_and_scores(result: Result) -> tuple[list[int], list[float]]:
    """Of the objects or segments found."""
    if isinstance(result, Instances):
        return result.labels.tolist(), result.scores.float().tolist()
    infos = (result.panoptic if isinstance(result, SceneGraph) else result).infos
    return [info.label for info in infos], [info.score for info in infos]


def write_training_report(
    path: Path,
    log: Path,
    metrics: Mapping[str, Any],
    examples: Sequence[Example],
    *,
    per_class: Mapping[str, Mapping[str, float]],
    precision: Mapping[str, NDArray[np.floating[Any]]],
    title: str,
    config: Mapping[str, Any],
    mistakes: Mistakes | None = None,
    threshold: float = THRESHOLD,
    command: str = "",
) -> None:
    """Write the report of a run.

    log is its log.jsonl, metrics the final scores by kind ({"segm": {"AP": ..}, ..}), per_class some of them by class
    ({"AP": {"cat": ..}}; nan where nothing is annotated), precision each class's at rising recall, config the settings;
    with mistakes the examples are the worst images, the worst first. Predictions are drawn from the threshold.
    command is how to repeat the run, by default the one that started this process.
    """
    steps, evaluations = read_log(log)
    charts: dict[str, Chart] = loss_charts(steps) | score_charts(evaluations)
    data: dict[str, Any] = {"charts": charts, "precision": []}
    curves = ""
    if precision:
        data["precision"] = precision_series(precision)
        chart = precision_chart(data["precision"])
        curves = precision_section(data["precision"], chart)
        if curves:
            charts["precision"] = chart
    body = [
        f"<header><h1>{escape(title)}</h1>{tile_list(headline(steps, metrics))}</header><main>",
        section("Scores", score_tables(metrics)),
        section("Score over training", chart_grid(charts, "score")),
        section("Training", CURVE_CONTROLS + chart_grid(charts, "curve") if steps else ""),
        *(section(f"{name} by class", bar_table(values, name) if values else "") for name, values in per_class.items()),
        section("Precision and recall", curves),
        section("Confusion of classes", confusion_section(mistakes) if mistakes else ""),
        examples_section(examples, mistakes, threshold),
        section("Configuration", configuration(config)),
        section("How to repeat it", repetition(command or started_command())),
        "</main>",
    ]
    write_page(path, title, "\n".join(body), data)


def write_prediction_report(
    path: Path, entries: Sequence[Entry], class_names: Sequence[str], title: str = "Predictions"
) -> None:
    """Write a gallery of predictions that filters by class and score, and the list of skipped files."""
    done = [entry for entry in entries if not entry.skipped]
    skipped = [entry for entry in entries if entry.skipped]
    folder = shared_folder([entry.name for entry in entries])  # said once, at the top
    figures = "".join(gallery_figure(entry, folder, class_names) for entry in done)
    counts = f"{len(done)} image{'' if len(done) == 1 else 's'}, {len(skipped)} skipped" + (folder and f"; in {folder}")
    body = [
        f'<header><h1>{escape(title)}</h1><p class="quiet">{escape(counts)}</p></header><main>',
        gallery_filter(done, class_names) + f'<div class="grid gallery">{figures}</div>' if done else "",
        section(f"Skipped files ({len(skipped)})", skipped_table(skipped) if skipped else ""),
        "</main>",
    ]
    rows = [{"labels": entry.labels, "scores": [round(s, 4) for s in entry.scores]} for entry in done]
    write_page(path, title, "\n".join(body), {"charts": {}, "entries": rows})


# The parts of the training report --------------------------------------------------------------------------


def headline(steps: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few figures that one looks for first."""
    tiles = []
    for kind, scores in metrics.items():
        if isinstance(scores, Mapping):
            flat = flat_scores(scores)
            tiles += [(f"{kind} {name}", f"{flat[name]:.3f}") for name in list(flat)[:1]]
    if steps:
        tiles.append(("steps", str(steps[-1]["step"])))
        speeds = [line["images_per_second"] for line in steps if is_number(line.get("images_per_second"))]
        if speeds:
            tiles.append(("images per second", f"{statistics.median(speeds):.1f}"))
    return tiles


def score_tables(metrics: Mapping[str, Any]) -> str:
    """One table for all flat kinds (segm, bbox, ...), one for each kind with rows of its own (panoptic)."""
    flat, tables = {}, ""
    for kind, scores in metrics.items():
        if not isinstance(scores, Mapping):
            continue
        # Scores by class would make a very long table; they have their own section.
        rows = {name: row for name, row in scores.items() if isinstance(row, Mapping) and name != "per_class"}
        if rows:
            tables += number_table(rows, kind)
        numbers = {name: value for name, value in scores.items() if is_number(value)}
        if numbers:
            flat[kind] = numbers
    return (number_table(flat, "") if flat else "") + tables


def chart_grid(charts: Mapping[str, Chart], prefix: str) -> str:
    """Empty cards for the charts whose names begin with prefix; the page's script draws into them."""
    cards = "".join(chart_card(name, chart) for name, chart in charts.items() if name.startswith(prefix))
    return f'<div class="grid">{cards}</div>' if cards else ""


def chart_card(name: str, chart: Chart) -> str:
    """The frame of a chart, with the names of its series where there are several."""
    names = [series["name"] for series in chart["series"]]
    keys = "".join(
        f'<span><i style="background:var(--series-{index % 4})"></i>{escape(text)}</span>'
        for index, text in enumerate(names)
    )
    legend = f'<div class="legend">{keys if len(names) > 1 or name == "precision" else ""}</div>'
    heading = f"<header><h3>{escape(chart['title'])}</h3><output></output></header>"
    return f'<div class="card chart" data-chart="{escape(name)}">{heading}{legend}</div>'


def precision_section(series: Sequence[Series], chart: Chart) -> str:
    """The chart with a list to choose a class from."""
    if not chart["series"]:
        return ""
    options = [("", "none"), *((str(index), one["name"]) for index, one in enumerate(series))]
    controls = f'<div class="controls">{choice("curve", "compare with class", options)}</div>'
    return controls + f'<div class="grid">{chart_card("precision", chart)}</div>'


def confusion_section(mistakes: Mistakes) -> str:
    """How often objects of one class were taken for another, of the classes with the most mistakes."""
    shown = most_confused(mistakes.confusion)
    total = len(mistakes.class_names)
    which = f"The {len(shown)} classes of {total} with the most mistakes. " if len(shown) < total else ""
    surely = "" if mistakes.threshold is None else f"a score of at least {mistakes.threshold:.2f} and "
    limits = f"{surely}an IoU of at least {OVERLAP:.2f}"
    note = f"{which}Rows: what is there. Columns: what was found there, with {limits}."
    names = [mistakes.class_names[label] for label in shown]
    counts = mistakes.confusion[np.ix_([*shown, -1], [*shown, -1])]
    return f'<p class="quiet">{note}</p>{confusion_table(names, counts.tolist())}' if mistakes.confusion.any() else ""


def most_confused(confusion: NDArray[np.int64]) -> list[int]:
    """The classes to show, in their order."""
    wrong = confusion - np.diag(np.diag(confusion))
    mistakes = (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
    chosen = np.argsort(-mistakes, kind="stable")[:CONFUSED_CLASSES]
    numbers: list[int] = np.sort(chosen).tolist()
    return numbers


def examples_section(examples: Sequence[Example], mistakes: Mistakes | None, threshold: float) -> str:
    """Ground truth on the left, prediction on the right."""
    figures = "".join(example_figure(example, threshold) for example in examples)
    note = f"Left: ground truth. Right: prediction, from a score of {threshold:.2f}."
    heading = f"Validation images ({len(examples)})"
    if mistakes:
        heading = f"The worst images ({len(examples)} of {len(mistakes.quality)})"
        values = [mistakes.quality[number] for number in mistakes.worst(len(examples))]
        reach = f"{values[0]:.2f} to {values[-1]:.2f}" if values else ""
        note += f" An image's quality is the mean IoU of what was found times the F1 of finding it: here {reach}."
    return section(heading, f'<p class="quiet">{note}</p><div class="grid pairs">{figures}</div>' if examples else "")


def example_figure(example: Example, threshold: float) -> str:
    """One image twice."""
    scale = readable_scale(example.image)
    bare = example.truth  # what people annotated has no scores to show
    if isinstance(bare, Instances):
        truth = jpeg(bare.draw(example.image, threshold=-math.inf, scale=scale, with_scores=False))
    else:
        truth = jpeg(bare.draw(example.image, threshold=-math.inf, scale=scale))
    prediction = jpeg(example.prediction.draw(example.image, threshold, scale=scale))
    found = sum(score >= threshold for score in labels_and_scores(example.prediction)[1])
    pair = picture(truth, f"{example.name}, ground truth") + picture(prediction, f"{example.name}, prediction")
    caption = f"<b>{escape(example.name)}</b> {len(labels_and_scores(bare)[0])} annotated, {found} predicted"
    return f'<figure class="card"><div class="pair">{pair}</div><figcaption>{caption}</figcaption></figure>'


def configuration(config: Mapping[str, Any]) -> str:
    """The configuration as YAML."""
    plain = json.loads(json.dumps(config, default=str))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    return f'<details class="card"><summary>config.yaml</summary><pre>{escape(text)}</pre></details>' if plain else ""


def repetition(command: str) -> str:
    """The command that started the run, and the versions of what it ran on."""
    facts = {"Python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:
            continue
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f'<div class="card"><pre>{escape(command)}</pre><br>{fact_table(facts)}</div>'


def started_command() -> str:
    """How this very process was started."""
    return shlex.join(["python", *sys.orig_argv[1:]])


# The parts of the prediction report ------------------------------------------------------------------------


def gallery_filter(entries: Sequence[Entry], class_names: Sequence[str]) -> str:
    """What to show: a class, a least score, an order."""
    found = sorted({label for entry in entries for label in entry.labels}, key=lambda label: class_names[label])
    classes = [("", "all"), *((str(label), class_names[label]) for label in found)]
    orders = [
        ("given", "as given"),
        ("most", "most objects"),
        ("surest", "best score"),
        ("unsure", "lowest best score"),
    ]
    slider = (
        '<label>score at least <input type="range" id="score" name="score" min="0" max="1" step="0.05" '
        'value="0"><output id="least"></output></label>'
    )
    return (
        f'<form id="filter" class="controls">{choice("label", "class", classes)}{slider}'
        f"{choice('order', 'order', orders)}"
        '<output id="found" class="quiet" aria-live="polite"></output></form>'
    )


def shared_folder(names: Sequence[str]) -> str:
    """The innermost folder that all are in; empty if there is none."""
    shared = []
    for parts in zip(*(name.split("/")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return "/".join(shared)


def gallery_figure(entry: Entry, folder: str, class_names: Sequence[str]) -> str:
    """One drawn image with what is on it."""
    counts: dict[str, int] = {}
    for label, value in zip(entry.labels, entry.scores, strict=True):
        if value >= entry.threshold:
            counts[class_names[label]] = counts.get(class_names[label], 0) + 1
    objects = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    name = entry.name.removeprefix(f"{folder}/") if folder else entry.name
    caption = f"<b>{escape(name)}</b> {escape(objects or 'nothing found')}"
    image = picture(entry.picture, entry.name)
    return f'<figure class="card">{image}<figcaption>{caption}</figcaption></figure>'


def skipped_table(entries: Sequence[Entry]) -> str:
    """The files that could not be read, and why."""
    return f'<div class="card">{fact_table({entry.name: entry.skipped for entry in entries})}</div>'
