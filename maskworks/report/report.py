"""A run or a set of predictions as one HTML file that needs no network: scores, curves, pictures.

- All of it comes from the files that were left in the folder; `python -m maskworks.report FOLDER` makes it again.
- Tables and pictures are plain HTML; report_page.html holds style and script (curves, sorting, filters).
- Every name from outside is escaped, and the page forbids itself to load anything.
"""

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from common.errors import UserError
from common.files import read_text
from common.run.callbacks import Run
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
from maskworks.report.details import Pair, PredictionDetails, RunDetails, Shown, read
from maskworks.report.mistakes import OVERLAP
from maskworks.report.page import (
    bar_table,
    choice,
    confusion_table,
    escape,
    fact_table,
    number_table,
    picture,
    section,
    thumbnail,
    tile_list,
    write_page,
)

LISTED = 200  # names of pictures
PLANNED = {
    **{"epochs": "epochs", "steps": "steps, which then say how long", "minutes": "minutes, which then say how long"},
    **{"batch_size": "pictures each step", "optimizer.name": "optimizer", "optimizer.lr": "learning rate"},
    **{"schedule.warmup": "steps of warm-up", "schedule.name": "and then", "evaluate_every": "epochs between scores"},
    **{"weights": "weights from", "model.frozen_stages": "frozen stages", "data.augment": "augmentation"},
}
CONFUSED_CLASSES = 20  # a larger table cannot be read
CURVE_CONTROLS = (
    '<div class="controls"><label>smoothing <input type="range" id="smoothing" min="0" max="0.99" '
    'step="0.01" value="0.8"></label>'
    '<label><input type="checkbox" id="logarithmic"> logarithmic</label></div>'
)
PACKAGES = ("maskworks", "torch", "torchvision", "numpy", "opencv-python-headless", "hotcoco")


def of_folder(folder: Path) -> None:
    """Make the report of a run or of predictions anew."""
    kind = read(folder, Kind)
    of_run(Run(folder)) if kind.shown is None else of_predictions(folder)


def of_run(run: Run) -> None:
    """RUN/report.html, from the files that the run has left, if it is to have one."""
    if not run.reported:
        return
    folder = run.folder
    details = read(folder, RunDetails)
    metrics, config = read_json(folder / "metrics.json"), folder / "config.yaml"
    written = read_text(config) if config.exists() else ""
    steps, evaluations = read_log(folder / "log.jsonl")
    charts: dict[str, Chart] = loss_charts(steps) | score_charts(evaluations)
    data: dict[str, Any] = {"charts": charts, "precision": []}
    curves = ""
    if details.precision:
        data["precision"] = precision_series(details.precision)
        chart = precision_chart(data["precision"])
        curves = precision_section(data["precision"], chart)
        if curves:
            charts["precision"] = chart
    bars = [
        (name, {of: math.nan if value is None else value for of, value in values.items()})
        for name, values in details.per_class.items()
        if values
    ]
    body = [
        f"<header><h1>{escape(details.title)}</h1>{tile_list(headline(steps, metrics))}</header><main>",
        section("Plan", plan(settings_in(written), folder)),
        training_pictures(folder),
        section("Scores", score_tables(metrics)),
        section("Score over training", chart_grid(charts, "score")),
        section("Training", CURVE_CONTROLS + chart_grid(charts, "curve") if steps else ""),
        *(section(f"{name} by class", bar_table(values, name)) for name, values in bars),
        section("Precision and recall", curves),
        section("Confusion of classes", confusion_section(details)),
        examples_section(folder, details),
        section("Configuration", configuration(written)),
        section("How to repeat it", repetition(details.command)),
        "</main>",
    ]
    finish(folder, details.title, body, data)


def of_predictions(folder: Path | None) -> None:
    """OUT/report.html: a gallery that filters by class and score, and the list of skipped files."""
    if folder is None:
        return
    details = read(folder, PredictionDetails)
    shown, skipped, names = details.shown, details.skipped, details.class_names
    shared = shared_folder([each.name for each in shown] + [name for name, _ in skipped])  # said once, at the top
    figures = "".join(gallery_figure(folder, each, shared, details) for each in shown)
    counts = f"{len(shown)} image{'' if len(shown) == 1 else 's'}, {len(skipped)} skipped"
    counts += shared and f"; in {shared}"
    body = [
        f'<header><h1>{escape(details.title)}</h1><p class="quiet">{escape(counts)}</p></header><main>',
        gallery_filter(shown, names) + f'<div class="grid gallery">{figures}</div>' if shown else "",
        section(f"Skipped files ({len(skipped)})", skipped_table(skipped) if skipped else ""),
        "</main>",
    ]
    rows = [{"labels": each.labels, "scores": [round(score, 4) for score in each.scores]} for each in shown]
    finish(folder, details.title, body, {"charts": {}, "entries": rows})


class Kind(msgspec.Struct):
    """Predictions show photographs; a run doesn't."""

    shown: list[Any] | None = None


def finish(folder: Path, title: str, body: list[str], data: dict[str, Any]) -> None:
    path = folder / "report.html"
    write_page(path, title, "\n".join(body), data)
    print(f"report: {path.resolve()}")


def read_json(path: Path) -> dict[str, Any]:
    """Scores, which may be NaN, as Python writes them."""
    try:
        content = json.loads(read_text(path)) if path.exists() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); remove it, or write it again with eval.py") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected scores by name, found {type(content).__name__}; remove it")
    return content


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


def plan(config: Any, folder: Path) -> str:
    """What the run was to do, and which pictures trained and validated."""
    facts = {said: text for name, said in PLANNED.items() if (text := setting(config, name)) not in ("", "0", "0.0")}
    splits = {"train": "pictures trained", "val": "pictures validated"}
    lists = "".join(split(folder / f"{name}.txt", said) for name, said in splits.items())
    return (fact_table(facts) if facts else "") + lists


def settings_in(text: str) -> Any:
    """Of a configuration that somebody has edited into something else there are none; the page shows it as it is."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}


def setting(config: Any, name: str) -> str:
    """The setting of a dotted name; empty where there is none."""
    for key in name.split("."):
        config = config.get(key, "") if isinstance(config, Mapping) else ""
    return str(config)


def split(file: Path, said: str) -> str:
    """The names in a list of pictures, to unfold."""
    names = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    more = [f"and {len(names) - LISTED} more, in {file.name}"] if len(names) > LISTED else []
    listed = escape("\n".join(names[:LISTED] + more))
    return f'<details class="card"><summary>{len(names)} {said}</summary><pre>{listed}</pre></details>' if names else ""


def training_pictures(folder: Path) -> str:
    """Pictures that the first steps saw."""
    files = sorted(folder.glob("examples/training-*.jpg"))
    figures = "".join(f'<figure class="card">{picture(thumbnail([file]), file.stem)}</figure>' for file in files)
    note = "As the network gets them, augmented and scaled, with the masks, boxes and joints that it is to learn."
    heading = f"Training pictures ({len(files)} of the first steps)"
    return section(heading, f'<p class="quiet">{note}</p><div class="grid">{figures}</div>' if files else "")


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


def confusion_section(details: RunDetails) -> str:
    """How often objects of one class were taken for another, of the classes with the most mistakes."""
    confusion = np.array(details.confusion, np.int64)
    if not confusion.any():
        return ""
    shown = most_confused(confusion)
    total = len(details.class_names)
    which = f"The {len(shown)} classes of {total} with the most mistakes. " if len(shown) < total else ""
    surely = "" if details.counted_from is None else f"a score of at least {details.counted_from:.2f} and "
    limits = f"{surely}an IoU of at least {OVERLAP:.2f}"
    note = f"{which}Rows: what is there. Columns: what was found there, with {limits}."
    names = [details.class_names[label] for label in shown]
    counts = confusion[np.ix_([*shown, -1], [*shown, -1])]
    return f'<p class="quiet">{note}</p>{confusion_table(names, counts.tolist())}'


def most_confused(confusion: NDArray[np.int64]) -> list[int]:
    """The classes to show, in their order."""
    wrong = confusion - np.diag(np.diag(confusion))
    mistakes = (wrong.sum(axis=0) + wrong.sum(axis=1))[:-1]
    chosen = np.argsort(-mistakes, kind="stable")[:CONFUSED_CLASSES]
    numbers: list[int] = np.sort(chosen).tolist()
    return numbers


def examples_section(folder: Path, details: RunDetails) -> str:
    """The worst images: ground truth on the left, prediction on the right."""
    figures = "".join(example_figure(folder, pair) for pair in details.examples)
    values = sorted(details.quality)[: len(details.examples)]
    reach = f"{values[0]:.2f} to {values[-1]:.2f}" if values else ""
    note = (
        f"Left: ground truth. Right: prediction, from a score of {details.threshold:.2f}. An image's quality is the "
        f"mean IoU of what was found times the F1 of finding it: here {reach}."
    )
    heading = f"The worst images ({len(details.examples)} of {len(details.quality)})"
    return section(heading, f'<p class="quiet">{note}</p><div class="grid pairs">{figures}</div>' if figures else "")


def example_figure(folder: Path, pair: Pair) -> str:
    """One image twice."""
    pictures = picture(thumbnail([folder / pair.truth]), f"{pair.name}, ground truth")
    pictures += picture(thumbnail([folder / pair.prediction]), f"{pair.name}, prediction")
    caption = f"<b>{escape(pair.name)}</b> {pair.annotated} annotated, {pair.predicted} predicted"
    return f'<figure class="card"><div class="pair">{pictures}</div><figcaption>{caption}</figcaption></figure>'


def configuration(text: str) -> str:
    """config.yaml as it is."""
    return f'<details class="card"><summary>config.yaml</summary><pre>{escape(text)}</pre></details>' if text else ""


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


# The parts of the prediction report ------------------------------------------------------------------------


def gallery_filter(shown: Sequence[Shown], class_names: Sequence[str]) -> str:
    """What to show: a class, a least score, an order."""
    found = sorted({label for each in shown for label in each.labels}, key=lambda label: class_names[label])
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


def gallery_figure(folder: Path, shown: Shown, shared: str, details: PredictionDetails) -> str:
    """One drawn image with what is on it."""
    counts: dict[str, int] = {}
    for label, value in zip(shown.labels, shown.scores, strict=True):
        if value >= details.threshold:
            name = details.class_names[label]
            counts[name] = counts.get(name, 0) + 1
    objects = ", ".join(f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    name = shown.name.removeprefix(f"{shared}/") if shared else shown.name
    caption = f"<b>{escape(name)}</b> {escape(objects or 'nothing found')}"
    image = picture(thumbnail([folder / path for path in shown.pictures]), shown.name)
    return f'<figure class="card">{image}<figcaption>{caption}</figcaption></figure>'


def skipped_table(skipped: Sequence[tuple[str, str]]) -> str:
    """The files that could not be read, and why."""
    return f'<div class="card">{fact_table(dict(skipped))}</div>'
