"""Reports: one file that loads nothing, shows what the run logged, and cannot be broken by a name."""

import base64
import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from common.curves import loss_charts, read_log, thin
from common.report import Entry, Example, make_entry, write_prediction_report, write_training_report
from common.results import Instances, Panoptic, Relation, SceneGraph, Segment

HOSTILE = "</script><script>document.title='broken'</script><b>&\"'"
NAMES = ("cat", HOSTILE, "三角")
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@dataclass
class Details:
    """What the report needs of coco_details()."""

    per_class: dict[str, float]
    precision: dict[str, NDArray[np.float64]]


def make_instances(labels: list[int], scores: list[float]) -> Instances:
    count = len(labels)
    masks = torch.zeros(count, 40, 60, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    return Instances(
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=torch.tensor([[10.0, 10.0, 30.0, 30.0]]).repeat(count, 1),
        masks=masks,
        size=(40, 60),
        class_names=NAMES,
        image=np.full((40, 60, 3), 120, np.uint8),
    )


def write_log(path: Path) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, 21):
        lines.append({"step": step, "epoch": step // 10, "loss": 2.0 / step, "lr": 0.01, "images_per_second": 12.5})
        if step % 10 == 0:
            lines.append({"step": step, "epoch": step // 10, "metrics": {"segm": {"AP": step / 50, "AP50": 0.6}}})
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 21, "lo', encoding="utf-8")


def training_report(folder: Path) -> Path:
    write_log(folder / "log.jsonl")
    images = [np.full((40, 60, 3), 120, np.uint8)] * 2
    examples = [
        Example("one.png", images[0], make_instances([0], [1.0]), make_instances([0, 1], [0.9, 0.1])),
        Example(HOSTILE, images[1], make_instances([], []), make_instances([], [])),
    ]
    details = Details(
        per_class={"cat": 0.25, HOSTILE: 0.75, "三角": math.nan},
        precision={"cat": np.linspace(1, 0, 101), HOSTILE: np.full(101, 0.5), "三角": np.full(101, np.nan)},
    )
    path = folder / "report.html"
    write_training_report(
        path,
        folder / "log.jsonl",
        metrics={
            "segm": {"AP": 0.4, "APl": -1.0},
            "panoptic": {"All": {"pq": 0.5, "n": 3}, "per_class": {1: {"pq": 0.5}}},
        },
        details=details,
        examples=examples,
        title=f"a run {HOSTILE}",
        config={"epochs": 12, "mean": (1.0, 2.0), "run": Path("</pre>")},
        command="python train.py --name '</pre>'",
    )
    return path


def prediction_report(folder: Path) -> Path:
    entries = []
    for name, labels, scores in [
        ("a.jpg", [0, 0], [0.9, 0.4]),
        ("b.jpg", [1], [0.6]),
        (HOSTILE, [0], [0.3]),
        ("empty.jpg", [], []),
    ]:
        result = make_instances(labels, scores)
        entries.append(make_entry(name, result.draw(), result))
    entries.append(Entry("broken.jpg", skipped=f"not an image {HOSTILE}"))
    entries.append(Entry("odd\udc80.jpg", skipped="empty file"))
    path = folder / "predictions.html"
    write_prediction_report(path, entries, NAMES)
    return path


REPORTS = pytest.mark.parametrize("write", [training_report, prediction_report])


class Page(HTMLParser):
    """The elements of a page as a parser sees them: what a browser would run and load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@REPORTS
def test_a_hostile_name_stays_text(write: Any, tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    assert [script.get("type") for script in page.of("script")] == ["application/json", None]
    assert len(page.of("pre")) == (2 if write is training_report else 0)
    assert any(HOSTILE in text for text in page.texts)
    json.loads(page.scripts[0])


@REPORTS
def test_nothing_is_loaded_from_anywhere(write: Any, tmp_path: Path) -> None:
    page = Page(write(tmp_path))
    sources = [
        attributes[key]
        for _, attributes in page.tags
        for key in ("src", "href", "data", "action", "srcset")
        if attributes.get(key)
    ]
    assert sources
    assert all(source is not None and source.startswith("data:image/jpeg;base64,") for source in sources)
    policy = next(tag["content"] for tag in page.of("meta") if tag.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_the_training_report_shows_scores_classes_configuration_and_command(tmp_path: Path) -> None:
    page = Page(training_report(tmp_path))
    text = "\n".join(page.texts)
    for expected in (
        "0.400",
        "0.750",
        "0.250",
        "epochs: 12",
        "</pre>",
        "python train.py --name '</pre>'",
        "torch",
    ):
        assert expected in text
    assert "nan" not in page.texts
    assert "-1.000" not in text  # COCO's -1: nothing to measure
    charts = json.loads(page.scripts[0])["charts"]
    assert set(charts) == {"score segm", "curve loss", "curve lr", "curve images_per_second", "precision"}
    assert charts["score segm"]["series"][0] == {"name": "AP", "x": [1, 2], "y": [0.2, 0.4]}


def test_examples_show_ground_truth_and_prediction_enlarged(tmp_path: Path) -> None:
    page = Page(training_report(tmp_path))
    pictures = [tag for tag in page.of("img") if tag.get("src")]
    assert [tag["alt"] for tag in pictures[:2]] == ["one.png, ground truth", "one.png, prediction"]
    assert len(pictures) == 4
    data = base64.b64decode(str(pictures[0]["src"]).split(",", 1)[1])
    assert Image.open(BytesIO(data)).size == (480, 320)  # 60 x 40, eight times


def test_a_report_without_log_details_and_examples_is_written(tmp_path: Path) -> None:
    write_training_report(
        tmp_path / "new" / "report.html",
        tmp_path / "missing.jsonl",
        metrics={},
        details=None,
        examples=[],
        title="nothing",
        config={},
    )
    assert "nothing" in (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    write_prediction_report(tmp_path / "none.html", [], NAMES)
    assert "0 images, 0 skipped" in (tmp_path / "none.html").read_text(encoding="utf-8")


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old one", encoding="utf-8")
    with pytest.raises(ValueError, match="JSON"):
        write_prediction_report(path, [Entry("a.jpg", b"", [0], [math.nan])], NAMES)
    assert path.read_text(encoding="utf-8") == "the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_gallery_lists_skipped_files_with_the_reason(tmp_path: Path) -> None:
    text = "\n".join(Page(prediction_report(tmp_path)).texts)
    assert "Skipped files (2)" in text
    assert f"not an image {HOSTILE}" in text
    assert "odd?.jpg" in text  # a name that is not valid Unicode


def test_a_panoptic_result_makes_an_entry() -> None:
    segments = torch.ones(40, 60, dtype=torch.int32)
    picture = np.full((40, 60, 3), 120, np.uint8)
    result = Panoptic(segments, [Segment(1, 2, False, 0.5)], NAMES, (40, 60), picture)
    entry = make_entry("p.jpg", result.draw(), result)
    assert (entry.labels, entry.scores) == ([2], [0.5])


def test_a_scene_graphs_entry_shows_the_graph_beside_the_drawing() -> None:
    segments = torch.ones(60, 80, dtype=torch.int32)
    segments[:, 40:] = 2
    panoptic = Panoptic(segments, [Segment(1, 0, True), Segment(2, 0, True)], ("cow",), (60, 80))
    graph = SceneGraph(panoptic, [Relation(0, 1, 0, 0.9)], ("beside",))
    drawing = graph.draw(np.zeros((60, 80, 3), np.uint8))
    entry = make_entry("pair.jpg", drawing, graph)
    picture = np.asarray(Image.open(BytesIO(entry.picture)))
    assert picture.shape[1] == 2 * drawing.width
    graph_alone = picture[:, drawing.width :]
    assert (graph_alone > 200).any()  # paper
    assert (graph_alone < 100).any()  # and ink


def test_the_log_survives_a_crash_and_a_resume(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [
        '{"step": 1, "loss": 5}',
        '{"step": 2, "loss": 9}',
        '{"step": 2, "loss": 4}',
        "[]",
        '{"step": 3, "lo',
    ]
    log.write_text("\n".join(lines), encoding="utf-8")
    steps, evaluations = read_log(log)
    assert [line["loss"] for line in steps] == [5, 4]
    assert evaluations == []


def test_a_long_log_is_averaged_down_and_gaps_stay_gaps() -> None:
    values = np.arange(6000.0)
    values[:20] = np.nan
    values[25] = np.inf
    series = thin("loss", list(range(6000)), values.tolist())
    assert len(series["x"]) == len(series["y"]) == 600
    assert series["y"][:2] == [None, None]
    assert series["y"][2] == pytest.approx(np.mean([20, 21, 22, 23, 24, 26, 27, 28, 29]), rel=1e-5)
    assert series["y"][-1] == pytest.approx(5994.5)


def test_loss_terms_come_before_lr_and_speed() -> None:
    charts = loss_charts([{"step": 1, "epoch": 0, "lr": 1.0, "images_per_second": 3.0, "loss": 2.0, "note": "x"}])
    assert list(charts) == ["curve loss", "curve lr", "curve images_per_second"]


def browse(path: Path, script: str = "", address: str = "") -> tuple[str, list[str]]:
    """Use the page in Chromium with a script: what it put into #answer, and the console's lines."""
    tried = path.with_name("tried.html")
    ending = "<pre id=answer></pre><script>const tell = value => document.getElementById('answer').textContent = "
    ending += f"JSON.stringify(value); {script}</script></body>"
    tried.write_text(path.read_text(encoding="utf-8").replace("</body>", ending), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    profile = f"--user-data-dir={path.parent / 'profile'}"
    done = subprocess.run(
        [str(CHROMIUM), *flags, profile, f"{tried.as_uri()}{address}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, "the page's script did not get to its end"
    assert "<title>broken" not in done.stdout
    return html.unescape(found[1]), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_chromium
def test_the_training_report_works_in_a_browser(tmp_path: Path) -> None:
    answer, console = browse(
        training_report(tmp_path),
        """
        const paths = () => all(".chart").map(card => card.querySelectorAll("svg path").length);
        const first = paths();
        const log = document.getElementById("logarithmic");
        log.checked = true;
        log.dispatchEvent(new Event("input"));
        const [byName, byScore] = all(".classes th button");
        const order = () => all(".classes tbody th").map(cell => cell.textContent);
        const orders = [order()];
        for (const button of [byScore, byName, byName]) { button.click(); orders.push(order()); }
        curve.value = "1";
        curve.dispatchEvent(new Event("input"));
        const svg = document.querySelector("[data-chart='curve loss'] svg");
        svg.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
        const value = document.querySelector("[data-chart='curve loss'] output").textContent;
        document.querySelector(".picture").click();
        tell({ first, second: paths(), orders, value, open: document.querySelector("dialog").open });
        """,
    )
    told = json.loads(answer)
    assert console == []
    # score: AP and AP50; loss and speed: raw and smooth; lr: one; precision: the mean
    assert told["first"] == [2, 2, 1, 2, 1]
    assert told["second"] == [2, 2, 1, 2, 2]
    assert told["value"].startswith("step 1: 2")
    assert told["open"] is True
    assert told["orders"] == [
        [HOSTILE, "cat", "三角"],  # by score, the best first; then the other way round
        ["三角", "cat", HOSTILE],
        [HOSTILE, "cat", "三角"],  # by name
        ["三角", "cat", HOSTILE],
    ]


@needs_chromium
def test_the_filters_of_the_gallery_work_in_a_browser(tmp_path: Path) -> None:
    path = prediction_report(tmp_path)
    show = "tell([all('.gallery figure:not([hidden]) b').map(b => b.textContent), found.textContent]);"
    answer, console = browse(path, show)
    assert console == []
    assert json.loads(answer) == [
        ["a.jpg", "b.jpg", HOSTILE, "empty.jpg"],
        "4 of 4 images, 4 objects",
    ]
    choose = "filter.elements.label.value = '0'; filter.elements.score.value = 0.35; "
    choose += "filter.dispatchEvent(new Event('input'));"
    answer, console = browse(path, choose + show)
    assert console == []
    assert json.loads(answer) == [["a.jpg"], "1 of 4 images, 2 objects"]
    answer, _ = browse(path, show, "#score=0.5&order=unsure")
    assert json.loads(answer) == [["b.jpg", "a.jpg"], "2 of 4 images, 2 objects"]
