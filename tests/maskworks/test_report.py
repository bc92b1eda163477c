"""Reports: one file that loads nothing, shows what the run logged, and cannot be broken by a name."""

import base64
import json
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from common.data.coco import CocoDataset
from common.data.loader import Steps, TrainingSet
from common.errors import UserError
from common.results import Panoptic, Segment
from common.run.settings import Training
from maskworks import shapes
from maskworks.report import of_folder
from maskworks.report.curves import loss_charts, read_log, thin
from maskworks.report.details import RunDetails, Shown, save_picture, write, write_run_details
from maskworks.report.examples import Example
from maskworks.report.mistakes import Mistakes
from maskworks.report.page import thumbnail
from maskworks.report.report import most_confused
from maskworks.report.training_pictures import write_training_pictures
from refinemask_psg.psg.results import Relation, SceneGraph
from tests.maskworks.report_examples import HOSTILE, NAMES, gallery, make_instances, prediction_report, training_report

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
        "AP by class",
        "epochs: 12",
        "</pre>",
        "python train.py --name '</pre>'",
        "torch",
    ):
        assert expected in text
    assert "nan" not in page.texts
    assert "PQ by class" not in text  # nothing to show
    assert "-1.000" not in text  # COCO's -1: nothing to measure
    charts = json.loads(page.scripts[0])["charts"]
    assert set(charts) == {"score segm", "curve loss", "curve lr", "curve images_per_second", "precision"}
    assert charts["score segm"]["series"][0] == {"name": "AP", "x": [1, 2], "y": [0.2, 0.4]}


def test_the_training_report_shows_which_classes_are_taken_for_which(tmp_path: Path) -> None:
    page = Page(training_report(tmp_path))
    titles = [str(tag["title"]) for tag in page.of("td") if tag.get("title")]
    assert len(titles) == 16
    assert f"cat, {HOSTILE}: 1 of 8" in titles
    assert f"{HOSTILE}, cat: 3 of 3" in titles
    assert "cat, not found: 2 of 8" in titles
    assert "nothing there, cat: 1 of 1" in titles
    text = "\n".join(page.texts)
    assert "The worst images (2 of 2)" in text
    assert "0.25 to 0.75" in text


def test_the_training_report_shows_plan_split_and_what_the_first_steps_saw(tmp_path: Path) -> None:
    made = shapes.ensure("val", seed=3, count=3, cache=tmp_path / "cache")
    items: Any = TrainingSet(CocoDataset([made.images], [made.instances]), v2.Identity(), 0)
    write_training_pictures(tmp_path, items, Training(batch_size=2))
    indices = dict.fromkeys(Steps(items.dataset.sizes, 2, 0, 0, 1).epoch_batches(0).ravel().tolist())
    for number, index in enumerate(indices, start=1):
        image, target = items[0, index]
        there = np.asarray(Image.open(tmp_path / f"examples/training-{number:02}.jpg"))
        plain = image.permute(1, 2, 0).numpy().repeat(there.shape[0] // image.shape[1], 0)
        plain = plain.repeat(there.shape[1] // image.shape[2], 1)
        apart = np.abs(there.astype(int) - plain).max(axis=2) > 30
        assert bool(apart.any()) == bool(len(target.labels))  # masks and boxes, on the picture itself
        assert apart.mean() < 0.9
    assert len(list((tmp_path / "examples").iterdir())) == len(indices) == 3
    (tmp_path / "train.txt").write_text(f"a.png\n{HOSTILE}\n")
    (tmp_path / "val.txt").write_text("".join(f"{number}.png\n" for number in range(203)))
    text = "\n".join(Page(training_report(tmp_path)).texts)
    for expected in (
        "Training pictures (3 of",
        "2 pictures trained",
        "203 pictures validated",
        "and 3 more, in val.txt",
    ):
        assert expected in text
    (tmp_path / "config.yaml").write_text("epochs: 12\nsteps: 0\noptimizer: {lr: 0.07}\ndata: {augment: light}\n")
    of_folder(tmp_path)
    text = "\n".join(Page(tmp_path / "report.html").texts)
    assert "learning rate\n0.07" in text
    assert "augmentation\nlight" in text
    assert "which then say how long" not in text


def test_of_many_classes_those_with_the_most_mistakes_are_shown() -> None:
    confusion = np.zeros((41, 41), np.int64)
    confusion[range(40), range(40)] = 1000  # what is right counts for nothing
    confusion[7, 33] = 5
    confusion[40, 21] = 3  # made up
    confusion[2, 40] = 2  # missed
    chosen = most_confused(confusion)
    assert len(chosen) == 20
    assert {2, 7, 21, 33} < set(chosen)
    assert chosen == sorted(chosen)


def test_what_is_drawn_is_counted(tmp_path: Path) -> None:
    found = make_instances([0, 0, 1], [0.9, 0.4, 0.6])
    save_picture(tmp_path / "a.jpg", found.draw())
    shown = [Shown("a.jpg", ["a.jpg"], *found.labels_and_scores())]
    assert f"2 {NAMES[0]}, 1 {NAMES[1]}" in "".join(Page(gallery(tmp_path, shown, [], 0.3)).texts)
    assert f"1 {NAMES[0]}, 1 {NAMES[1]}" in "".join(Page(gallery(tmp_path, shown, [], 0.5)).texts)
    example = Example("one.png", np.full((40, 60, 3), 120, np.uint8), found, found)
    nothing = Mistakes((), np.zeros((1, 1), np.int64), np.array([0.5]), 0.5)
    write_run_details(tmp_path, "sure", [example], nothing, {}, {}, 0.5)
    of_folder(tmp_path)
    text = "\n".join(Page(tmp_path / "report.html").texts)
    assert "from a score of 0.50" in text
    assert "3 annotated, 2 predicted" in text


def test_examples_show_ground_truth_and_prediction_enlarged(tmp_path: Path) -> None:
    page = Page(training_report(tmp_path))
    pictures = [tag for tag in page.of("img") if tag.get("src")]
    assert [tag["alt"] for tag in pictures[:2]] == ["one.png, ground truth", "one.png, prediction"]
    assert len(pictures) == 4
    data = base64.b64decode(str(pictures[0]["src"]).split(",", 1)[1])
    assert Image.open(BytesIO(data)).size == (480, 320)  # 60 x 40, eight times


def test_a_report_without_log_scores_and_examples_is_written(tmp_path: Path) -> None:
    write(tmp_path, RunDetails("nothing", 0.3))
    of_folder(tmp_path)
    assert "nothing" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0 images, 0 skipped" in gallery(tmp_path, [], []).read_text(encoding="utf-8")


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old one", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="gone"):
        gallery(tmp_path, [Shown("a.jpg", ["gone.jpg"])], [])
    assert path.read_text(encoding="utf-8") == "the old one"
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "details.json"}


def test_a_folder_without_details_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"details\.json: No such file"):
        of_folder(tmp_path)
    (tmp_path / "details.json").write_text('{"shown": 3}')
    with pytest.raises(UserError, match="not the details of a run or of predictions"):
        of_folder(tmp_path)


def test_the_gallery_lists_skipped_files_with_the_reason(tmp_path: Path) -> None:
    text = "\n".join(Page(prediction_report(tmp_path)).texts)
    assert "Skipped files (2)" in text
    assert f"not an image {HOSTILE}" in text
    assert "odd?.jpg" in text  # a name that is not valid Unicode


def test_a_panoptic_results_segments_are_what_is_shown() -> None:
    segments = torch.ones(40, 60, dtype=torch.int32)
    picture = np.full((40, 60, 3), 120, np.uint8)
    result = Panoptic(segments, [Segment(1, 2, False, 0.5)], NAMES, (40, 60), picture)
    assert result.labels_and_scores() == ([2], [0.5])
    assert list(result.pictures(picture, 0.3)) == ["drawings"]


def test_a_scene_graph_stands_beside_its_drawing(tmp_path: Path) -> None:
    segments = torch.ones(60, 80, dtype=torch.int32)
    segments[:, 40:] = 2
    panoptic = Panoptic(segments, [Segment(1, 0, True), Segment(2, 0, True)], ("cow",), (60, 80))
    graph = SceneGraph(panoptic, [Relation(0, 1, 0, 0.9)], ("beside",))
    pictures = graph.pictures(np.zeros((60, 80, 3), np.uint8), 0.3)
    for kind, drawing in pictures.items():
        save_picture(tmp_path / f"{kind}.jpg", drawing)
    whole = np.asarray(Image.open(BytesIO(thumbnail([tmp_path / f"{kind}.jpg" for kind in pictures]))))
    assert whole.shape[1] == 2 * pictures["drawings"].width
    graph_alone = whole[:, pictures["drawings"].width :]
    assert (graph_alone > 200).any()  # paper
    assert (graph_alone < 100).any()  # and ink


def test_the_log_survives_a_crash_and_a_resume(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = ['{"step": 1, "loss": 5}', '{"step": 2, "loss": 9}', '{"step": 2, "loss": 4}', "[]", '{"step": 3, "lo']
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


def test_the_gallery_says_a_folder_that_all_photographs_are_in_once(tmp_path: Path) -> None:
    save_picture(tmp_path / "x.jpg", Image.new("RGB", (4, 4)))
    shown = [Shown("trip/day/a.jpg", ["x.jpg"]), Shown("trip/b.jpg", ["x.jpg"])]
    texts = [text.strip() for text in Page(gallery(tmp_path, shown, [("trip/c.jpg", "bad")])).texts]
    assert "2 images, 1 skipped; in trip" in texts
    assert {"day/a.jpg", "b.jpg", "trip/c.jpg"} < set(texts)
