"""Prediction over very many photographs: what is read, kept, done anew; with Ray's own processes where marked slow."""

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from common.data.images import read_image
from common.errors import UserError
from common.metrics import evaluate_coco
from common.ops import masks as codes
from common.ops.masks import decode
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks import command_line
from maskworks.many import engine, finding, parts, photographs, results, scoring, sources
from maskworks.many.__main__ import PredictMany
from solov2 import VARIANTS, SOLOv2, load
from tests.running import call

pa = pytest.importorskip("pyarrow", reason="pip install 'maskworks[ray]' for these tests")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

ROOT = Path(__file__).resolve().parents[2]
MADE_BY = {"weights": "1", "settings": {"threshold": 0.0}, "classes": [{"id": 7, "name": "a"}], "versions": {}}
SETTINGS = {"threshold": 0.0, "precision": "fp32", "max_pixels": 10**6}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SOLOv2 that finds something in everything."""
    torch.manual_seed(0)
    config = deepcopy(VARIANTS["shapes"])
    config.model.fpn_channels = config.model.tower_channels = 32
    config.model.tower_depth, config.test.long_side, config.test.short_side = 1, 64, 64
    config.test.score_threshold, config.test.update_threshold, config.test.max_candidates = 0.005, 0.0, 20
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save(path, Checkpoint("solov2", to_dict(config), ("a", "b"), (3, 5), SOLOv2(config, ("a", "b")).state_dict()))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve photographs, one that breaks off and one file that is none."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(12):
        height, width = (int(side) for side in random.integers(48, 90, 2))
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(coarse, (width, height)))
    (folder / "torn.png").write_bytes((folder / "00.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("none")
    return folder


def tar_of(folder: Path, place: Path) -> Path:
    with tarfile.open(place, "w") as archive:
        for name in ("00.png", "notes.txt", "01.png"):
            archive.add(folder / name, name)
    return place


def listed(source: Path | str, column: str = "", done: set[str] | None = None) -> list[Any]:
    return list(sources.pieces(str(source), column, "/nowhere", done if done is not None else set(), []))


def read(pieces: list[Any]) -> list[Any]:
    return [photographs.decoded(each, 10**6) for piece in pieces for each in photographs.photographs(piece)]


# --- sources and photographs


def test_the_same_pictures_come_from_every_kind_of_source(folder: Path, tmp_path: Path) -> None:
    first = [folder / "00.png", folder / "01.png"]
    (tmp_path / "some.txt").write_text(f"{first[0]}\n\n{os.path.relpath(first[1], tmp_path)}\n")
    pq.write_table(pa.table({"n": [1, 2], "path": list(map(str, first))}), tmp_path / "paths.parquet")
    bytes_of = [{"bytes": path.read_bytes(), "path": path.name} for path in first]
    pq.write_table(pa.table({"image": bytes_of}), tmp_path / "pictures.parquet", row_group_size=1)
    memory = fsspec.filesystem("memory")
    for path in first:
        memory.pipe_file(f"/pictures/{path.name}", path.read_bytes())
    expected = [read_image(path).tobytes() for path in first]
    tar = tar_of(folder, tmp_path / "some.tar")
    names = ("some.txt", "paths.parquet", "pictures.parquet")
    for source in (f"{folder}/0[01]*.png", *(tmp_path / name for name in names), tar, "memory://pictures"):
        assert [row["pixels"] for row in read(listed(source))] == expected, source
    assert [row["path"] for row in read(listed(tar))] == [f"{tar}#00.png", f"{tar}#01.png"]
    assert listed("memory://pictures")[0].place == "memory:///pictures/00.png"


def test_what_is_done_is_left_out_in_archives_too(folder: Path, tmp_path: Path) -> None:
    tar = tar_of(folder, tmp_path / "some.tar")
    assert [row["path"] for row in read(listed(tar, done={f"{tar}#00.png"}))] == [f"{tar}#01.png"]
    place = tmp_path / "pictures.parquet"
    pq.write_table(pa.table({"bytes": [(folder / "00.png").read_bytes()] * 3}), place, row_group_size=2)
    assert [row["path"] for row in read(listed(place, done={f"{place}#1", f"{place}#2"}))] == [f"{place}#0"]
    assert [piece.place[-6:] for piece in listed(folder, done={str(folder / "00.png")})][:1] == ["01.png"]


def test_what_cannot_be_read_is_a_reason(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "all.txt").write_text(f"{folder}/torn.png\n{tmp_path}/gone.png\n{tmp_path}/pipe.png\n")
    cut = tmp_path / "cut.tar"
    cut.write_bytes(tar_of(folder, tmp_path / "whole.tar").read_bytes()[:700])
    reasons = [row["error"] for row in read(listed(tmp_path / "all.txt") + listed(cut))]
    assert [reason[:26] for reason in reasons[:3]] == [
        "the file is truncated (its",
        "no such image; check the p",
        "a pipe or a device; expect",
    ]
    assert "the tar cannot be read to its end" in reasons[3]
    with pytest.raises(UserError, match="no column gone; --column names one of n"):
        pq.write_table(pa.table({"n": [1]}), tmp_path / "n.parquet")
        listed(tmp_path / "n.parquet", "gone")
    with pytest.raises(UserError, match="no file there"):
        listed(tmp_path / "nothing")


def test_storage_that_fails_now_and_then_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/shaky/00.png", (folder / "00.png").read_bytes())
    monkeypatch.setattr(time, "sleep", lambda _: None)
    calls, real = iter([OSError("reset"), TimeoutError("late"), None]), type(memory).cat_file

    def cat_file(self: Any, *args: Any, **named: Any) -> Any:
        if error := next(calls, None):
            raise error
        return real(self, *args, **named)

    monkeypatch.setattr(type(memory), "cat_file", cat_file)
    assert read(listed("memory://shaky"))[0]["error"] is None


# --- rows and parts


def test_a_row_is_what_the_model_answers(folder: Path, weights: Path) -> None:
    pictures = read(listed(f"{folder}/0*.png"))
    rows = finding.Finder(weights.read_bytes(), SETTINGS, "cpu", 3).rows(pictures)
    assert [row["path"] for row in rows] == [row["path"] for row in pictures]
    result = load(weights, device="cpu").predict(folder / "00.png")
    assert (rows[0]["height"], rows[0]["width"]) == result.size
    assert [found["class"] for found in rows[0]["instances"]] == result.names
    masks = decode([found["rle"] for found in rows[0]["instances"]])
    assert (masks == result.masks.numpy()).mean() > 0.999  # of a batch of three, the last bits differ
    assert finding.refuse_others(weights) == [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}]


def kept(target: Path, *names: str, made_by: Any = MADE_BY) -> None:
    """A part with a row of one instance for each name."""
    found = {"class": "a", "score": 0.5, "box": [1.0, 2.0, 4.0, 8.0], "rle": {"size": [9, 9], "counts": "a2"}}
    row = {"height": 9, "width": 9, "digest": "", "instances": [found], "milliseconds": 1.0}
    parts.write(pa.Table.from_pylist([{"path": name} | row for name in names], parts.schema()), str(target), made_by)


def test_torn_parts_are_set_aside_and_other_settings_refused(tmp_path: Path, capsys: Any) -> None:
    kept(tmp_path, "x", "y")
    kept(tmp_path, "z")
    kept(tmp_path, "z")  # written twice is there once
    assert parts.finished(str(tmp_path), MADE_BY) == ({"x", "y", "z"}, MADE_BY)
    kept(tmp_path, "w")
    torn = tmp_path / f"part-{parts.digest(['w'])}.parquet"
    torn.write_bytes(torn.read_bytes()[:-5])
    (tmp_path / ".1.unfinished").touch()
    assert parts.finished(str(tmp_path), MADE_BY)[0] == {"x", "y", "z"}
    assert "not whole; set aside" in capsys.readouterr().out
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".aside"}
    kept(tmp_path, "x", "v")  # x again: a killed cluster's last breath
    assert len(parts.finished(str(tmp_path), MADE_BY)[0]) == 3
    parts.finished(str(tmp_path), MADE_BY | {"versions": {"torch": "9"}})
    with pytest.raises(UserError, match=r'other weights \("1", not "2"\)'):
        parts.finished(str(tmp_path), MADE_BY | {"weights": "2"})


def test_results_are_coco_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(tmp_path / "found", "x", "y")
    for words in ("--to coco --out all.json", "--to folder --out each"):
        monkeypatch.chdir(tmp_path)
        call("maskworks.many.results", "found", *words.split())
    content = json.loads((tmp_path / "all.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["x", "y"]
    assert content["categories"] == MADE_BY["classes"]
    wanted = {"image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 6], "score": 0.5}
    assert content["annotations"][1] == wanted | {"segmentation": {"size": [9, 9], "counts": "a2"}}
    assert {json.loads(path.read_text())["image"]["file_name"] for path in (tmp_path / "each").iterdir()} == {"x", "y"}


SIDE, CLASSES = 64, [{"id": 3, "name": "a"}, {"id": 5, "name": "b"}, {"id": 9, "name": "without objects"}]


def boxed_mask(random: np.random.Generator) -> Any:
    """The box x, y, width, height and the RLE of a rectangle; sizes of all kinds, close to each other."""
    mask, (x, y), side = np.zeros((1, SIDE, SIDE), bool), random.integers(0, 9, 2).tolist(), int(random.choice([8, 40]))
    mask[0, y : y + side, x : x + side] = True
    return [x, y, side, side], codes.encode(mask)[0]


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any], Any]:
    """Annotations of 9 images, with crowds; detections, written as rows; what scores them.

    Of image 7 there is only a reason, of image 8 no row, in image 0 nothing was found; two rows are of other images.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    random, annotations, detections, instances = np.random.default_rng(0), [], [], {n: [] for n in range(7)}
    for image in range(9):
        for _ in range(int(random.integers(0, 12))):
            box, code = boxed_mask(random)
            entry = {"image_id": 90 - image, "category_id": int(random.choice([3, 5])), "area": box[2] ** 2}
            entry |= {"id": len(annotations) + 1, "bbox": box, "segmentation": code}
            annotations.append(entry | {"iscrowd": int(random.random() < 0.2)})
        for _ in range(14 if 0 < image < 7 else 0):
            (x, y, width, height), code = boxed_mask(random)
            category = CLASSES[random.integers(3)]
            scores = {"score": float(random.choice([0.25, 0.5, 0.75])), "mask_score": float(random.choice([0.5, 1.0]))}
            entry = {"image_id": 90 - image, "category_id": category["id"], "bbox": [x, y, width, height]}
            detections.append(entry | scores | {"segmentation": code})
            found = {"class": category["name"], "box": [x, y, x + width, y + height], "rle": code}
            instances[image].append(found | scores)
    images = [{"id": 90 - n, "file_name": f"{n % 2}/{n}.png", "height": SIDE, "width": SIDE} for n in range(9)]
    truth = {"images": images, "categories": CLASSES, "annotations": annotations}
    Path("truth.json").write_text(json.dumps(truth))
    size = {"height": SIDE, "width": SIDE}
    written = [{"path": f"s3://all/{n % 2}/{n}.png", "instances": instances[n]} | size for n in (4, 2, 0)]
    written += [{"path": f"/here/some.tar#{n % 2}/{n}.png", "instances": instances[n]} | size for n in (1, 3, 5, 6)]
    written += [{"path": f"/{folder}/twin.png", "instances": instances[1]} | size for folder in "xy"]
    written += [{"path": "/here/1/7.png", "error": "torn"}]
    for some in (written[:5], written[5:]):
        parts.write(pa.Table.from_pylist(some, parts.schema()), "found", MADE_BY | {"classes": CLASSES})

    def score(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["score", "found", "--annotations", "truth.json", "--out", "out", *words])
        scoring.main()
        return json.loads(Path("out/metrics.json").read_text())

    return truth, detections, score


@pytest.mark.parametrize("limit", [100, 11])
def test_scores_of_rows_are_those_of_everything_in_memory(
    limit: int, scored: tuple[Any, list[Any], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    truth, detections, score = scored
    found = score("--max-detections", str(limit))
    ranked = [each | {"score": each["mask_score"]} for each in detections]
    assert found["segm"] == evaluate_coco(truth, ranked, "segm", limit)
    assert found["bbox"] == evaluate_coco(truth, detections, "bbox", limit)
    assert 0.05 < found["segm"]["AP"] < 0.9
    said = capsys.readouterr().out
    assert "9 images scored\n1 of them skipped by predict-many, 1 without a row: their objects count as missed" in said
    assert "2 rows left out: truth.json names no such image" in said


def test_rows_that_do_not_fit_the_annotations_are_refused_by_name(scored: tuple[Any, list[Any], Any]) -> None:
    truth, _, score = scored

    def refused(words: str, **changes: Any) -> None:
        Path("truth.json").write_text(json.dumps(truth | changes))
        with pytest.raises(UserError, match=words):
            score()

    first, *others = truth["images"]
    refused("its classes are not the checkpoint's", categories=[*CLASSES[:2], {"id": 9, "name": "c"}])
    refused("0/0.png is 64 x 64, but 65 x 64 in truth", images=[first | {"width": 65}, *others], annotations=[])
    refused("two images or two classes have the same name", images=[first, first | {"id": 1}, *others])
    refused("y/twin.png and another row are both twin.png", images=[first | {"file_name": "twin.png"}, *others])
    elsewhere = [each | {"file_name": f"elsewhere/{each['file_name']}"} for each in truth["images"]]
    refused("none of its images has a row in found, whose last is", images=elsewhere)


def lines_of_the_page(verb: str) -> list[list[str]]:
    text = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in text.splitlines() if line.startswith(verb)]


def test_the_commands_of_the_page_are_understood() -> None:
    lines = lines_of_the_page("maskworks predict-many")
    told = [command_line.read(PredictMany, "predict-many", words[2:]) for words in lines]
    assert [(options.out, options.rows, options.address) for options in told] == [
        ("found", 500, ""),
        ("everything", 20000, "auto"),
    ]


def test_the_page_can_ask_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb", reason="pip install duckdb for this test")
    kept(tmp_path / "found", "x", "y")
    monkeypatch.chdir(tmp_path)
    ((_, flag, query),) = lines_of_the_page("duckdb")
    assert (flag, duckdb.sql(query).fetchall()) == ("-c", [("a", 2)])


# --- Ray


def command(folder: Path, weights: Path, out: Path, *more: str) -> list[str]:
    words = [str(folder), "--weights", str(weights), "--out", str(out), "--rows", "2", *more]
    return [sys.executable, "-m", "maskworks", "predict-many", *words]


def started(line: list[str], cwd: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(cwd)]), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, cwd=cwd, env=environment, **pipes)


def rows_of(target: Path) -> list[Any]:
    rows = sorted(results.rows(str(target)), key=lambda row: row["path"])
    return [{name: value for name, value in row.items() if name != "milliseconds"} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    pytest.importorskip("ray", reason="pip install 'maskworks[ray]' for this test")
    home = tmp_path_factory.mktemp("undisturbed")
    said, _ = started(command(folder, weights, home / "out"), home).communicate(timeout=300)
    assert "13 photographs done, 1 of them skipped" in said, said
    rows = rows_of(home / "out")
    assert [row["error"] is None for row in rows] == [True] * 12 + [False]
    return rows


def until(condition: Any, process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(
    folder: Path, weights: Path, undisturbed: list[Any], tmp_path: Path
) -> None:
    process = started(command(folder, weights, tmp_path / "out"), tmp_path)
    until(lambda: list((tmp_path / "out").glob("*.parquet")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    time.sleep(2)  # what it had started ends with it
    torn = next((tmp_path / "out").glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:100])
    said, _ = started(command(folder, weights, tmp_path / "out"), tmp_path).communicate(timeout=300)
    assert "set aside and done anew" in said
    assert rows_of(tmp_path / "out") == undisturbed
    said, _ = started(command(folder, weights, tmp_path / "out"), tmp_path).communicate(timeout=300)
    assert "0 photographs and 0 archives to do; 13 have a row" in said


@pytest.mark.slow
def test_the_commands_of_the_page_run(folder: Path, weights: Path, undisturbed: list[Any], tmp_path: Path) -> None:
    """On this machine; the one that joins a cluster is its first one otherwise."""
    (tmp_path / "photographs").symlink_to(folder)
    (tmp_path / "solov2.safetensors").symlink_to(weights)
    (score,) = lines_of_the_page("maskworks score")
    truth = tmp_path / score[4]
    truth.parent.mkdir(parents=True)
    for words in (lines_of_the_page("maskworks predict-many")[0], *lines_of_the_page("maskworks results"), score):
        if words == score:
            truth.write_text(json.dumps(json.loads((tmp_path / "found.json").read_text()) | {"annotations": []}))
        process = started([sys.executable, "-m", *words], tmp_path)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    assert len(json.loads((tmp_path / "found.json").read_text())["images"]) == 12
    assert len(list((tmp_path / "each").iterdir())) == 12
    assert "bbox" in json.loads((tmp_path / "scored/metrics.json").read_text())
    duckdb = pytest.importorskip("duckdb")
    query = lines_of_the_page("duckdb")[0][2].replace("'found/", f"'{tmp_path}/found/").replace("> 0.3", "> 0")
    found = [instance["class"] for row in undisturbed for instance in row["instances"] or []]
    assert dict(duckdb.sql(query).fetchall()) == {name: found.count(name) for name in set(found)}


@pytest.fixture
def deadly(tmp_path: Path) -> Iterator[Path]:
    """A folder whose sitecustomize makes a model die: once, or whenever it meets 03.png."""
    (tmp_path / "sitecustomize.py").write_text("""
import os, sys
from pathlib import Path
if "default_worker" in " ".join(sys.argv) or "default_worker" in " ".join(sys.orig_argv):
    from maskworks.many import finding
    real, once = finding.picture, Path(os.environ["DEADLY"])
    def picture(row):
        if row["path"].endswith("03.png") and (os.environ["ALWAYS"] or not once.exists()):
            once.open("a").write("x")
            os.kill(os.getpid(), 9)
        return real(row)
    finding.picture = picture
""")
    yield tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("always", ["", "1"])
def test_a_worker_that_dies_costs_at_most_the_photograph_that_kills_it(
    always: str, folder: Path, weights: Path, undisturbed: list[Any], deadly: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALWAYS", always)
    monkeypatch.setenv("DEADLY", str(deadly / "deaths"))
    said, _ = started(command(folder, weights, deadly / "out", "--batch-size", "1"), deadly).communicate(timeout=300)
    assert (deadly / "deaths").read_text() == ("xx" if always else "x"), said
    rows = rows_of(deadly / "out")
    different = [row for row, expected in zip(rows, undisturbed, strict=True) if row != expected]
    assert [(Path(row["path"]).name, row["error"]) for row in different] == [("03.png", engine.LOST)] * bool(always)
