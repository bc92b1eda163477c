"""Prediction of many images: shared out, stopped and resumed, with bad files among them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import maskrcnn.demo
import refinemask_psg.predict
import solov2.predict
from common.errors import UserError
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.prediction.command import Predict, predict, unique_names
from maskworks.prediction.film import write_video
from maskworks.report import of_predictions
from tests.faults.guessing import CLASSES, Guess, contents, guess, pictures, predictions
from tests.running import ROOT, make_photographs, python, skipped_files, status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures(tmp_path / "in", 8)
    return tmp_path


def interrupt_at(number: int):
    def interrupt(asked: int) -> None:
        if asked == number:
            raise KeyboardInterrupt

    return interrupt


def test_a_run_leaves_one_result_for_each_image_and_no_journal(folder):
    guess(folder, Guess())
    found = predictions(folder)
    assert [Path(image["file_name"]).name for image in found["images"]] == [f"{n}.png" for n in range(8)]
    assert [image["id"] for image in found["images"]] == list(range(1, 9))
    assert [entry["image_id"] for entry in found["annotations"]] == list(range(1, 9))
    assert [entry["category_id"] for entry in found["annotations"]] == [1] * 7 + [2]
    assert found["categories"] == [{"id": 1, "name": "dark"}, {"id": 2, "name": "light"}]
    assert {path.name for path in (folder / "out").iterdir()} == {
        "drawings",
        "masks",
        "predictions.json",
        "details.json",
        "report.html",
    }


def test_a_stopped_run_goes_on_and_ends_as_one_never_stopped(folder):
    guess(folder, Guess(), out="whole")
    first, second = Guess(interrupt_at(6)), Guess()
    with pytest.raises(UserError, match="interrupted; add --resume"):
        guess(folder, first)
    assert not (folder / "out" / "predictions.json").exists()
    guess(folder, second, resume=True)
    assert (first.asked, second.asked) == (6, 3)  # five were finished, the sixth was not
    assert contents(folder / "out") == contents(folder / "whole")


def test_a_killed_run_goes_on_where_it_was_killed(folder, monkeypatch):
    script = (
        "import os, signal; from pathlib import Path; from tests.faults.guessing import Guess, guess\n"
        "def kill(asked):\n    if asked == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "guess(Path('.'), Guess(kill))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, env=environment, check=False, timeout=300)
    assert done.returncode == -9
    journal = folder / "out" / "journal" / "0.jsonl"
    assert journal.read_text().count("\n") == 3
    journal.write_text(journal.read_text() + '{"key": "done in/3.pn')  # as a kill in the middle of writing leaves it
    model = Guess()
    monkeypatch.chdir(folder)
    guess(Path(), model, resume=True)
    assert model.asked == 5
    assert len(predictions(folder)["annotations"]) == 8


def test_a_stopped_run_is_not_begun_anew_by_mistake(folder):
    with pytest.raises(UserError):
        guess(folder, Guess(interrupt_at(3)))
    before = contents(folder / "out")
    with pytest.raises(UserError, match=r"journal: a run was stopped here; add --resume .* or remove"):
        guess(folder, Guess())
    assert contents(folder / "out") == before
    shutil.rmtree(folder / "out" / "journal")
    guess(folder, Guess())
    assert len(predictions(folder)["annotations"]) == 8


def test_a_folder_of_that_name_that_no_run_wrote_is_left_alone(folder):
    diary = folder / "out" / "journal" / "2026.txt"
    diary.parent.mkdir(parents=True)
    diary.write_text("dear diary")
    with pytest.raises(UserError, match=r"journal: holds what no run wrote there \(2026\.txt\)"):
        guess(folder, Guess())
    assert diary.read_text() == "dear diary"


def test_results_of_other_settings_are_not_mixed(folder):
    with pytest.raises(UserError):
        guess(folder, Guess(interrupt_at(3)))
    with pytest.raises(UserError, match=r"other settings \(threshold: 0.3 before, 0.6 now\)"):
        guess(folder, Guess(), resume=True, threshold=0.6)
    guess(folder, Guess(), resume=True, limit=5)  # changes no image's result
    assert len(predictions(folder)["annotations"]) == 5


def test_resuming_where_nothing_was_begun_or_all_is_finished_begins(folder):
    for _ in range(2):
        model = Guess()
        guess(folder, model, resume=True)
        assert model.asked == 8


def test_new_images_do_not_take_the_names_of_finished_ones(folder):
    with pytest.raises(UserError):
        guess(folder, Guess(interrupt_at(3)), threshold=2.0)
    drawn = (folder / "out" / "drawings" / "0.jpg").read_bytes()
    white = np.full((12, 16, 3), 255, np.uint8)
    cv2.imwrite(str(folder / "in" / "0.jpg"), white)  # comes before 0.png
    guess(folder, Guess(), resume=True, threshold=2.0)  # nothing is drawn
    assert (folder / "out" / "drawings" / "0.jpg").read_bytes() == drawn
    means = [cv2.imread(str(folder / "out" / "drawings" / name)).mean() for name in ("0.jpg", "0-2.jpg")]
    assert means[1] > means[0] + 50


def test_bad_files_among_good_ones_cost_a_line_each(folder, capsys):
    (folder / "in" / "3.png").write_bytes((folder / "in" / "3.png").read_bytes()[:40])
    (folder / "in" / "notes.txt").write_text("hello")
    (folder / "in" / "bad.mp4").write_text("no video")
    write_video(folder / "in" / "film.mp4", [np.zeros((48, 64, 3), np.uint8)] * 2, 5)
    guess(folder, Guess())
    captured = capsys.readouterr()
    assert skipped_files(captured.err) == {"3.png", "notes.txt", "bad.mp4"}
    assert "7 photographs done, 3 files skipped" in captured.out
    assert len(predictions(folder)["images"]) == 7
    assert (folder / "out" / "film.mp4").stat().st_size > 0
    report = (folder / "out" / "report.html").read_text()
    assert all(name in report for name in ("3.png", "notes.txt", "bad.mp4"))


def test_an_image_that_was_skipped_is_tried_again(folder, capsys):
    whole = (folder / "in" / "1.png").read_bytes()
    (folder / "in" / "1.png").write_bytes(b"")
    with pytest.raises(UserError):
        guess(folder, Guess(interrupt_at(3)))
    (folder / "in" / "1.png").write_bytes(whole)
    guess(folder, Guess(), resume=True)
    assert "8 photographs done, 0 files skipped" in capsys.readouterr().out
    assert "Skipped" not in (folder / "out" / "report.html").read_text()


def test_what_was_written_is_not_taken_for_input(folder):
    guess(folder, Guess(), images=".", out="out")
    guess(folder, again := Guess(), images=".", out="out")
    assert again.asked == 8
    guess(folder, beside := Guess(), images="in", out="in")
    guess(folder, beside, images="in", out="in")
    assert beside.asked == 16


def test_a_video_is_not_replaced_by_its_drawing(folder, capsys):
    video = folder / "in" / "film.mp4"
    write_video(video, [np.zeros((48, 64, 3), np.uint8)] * 2, 5)
    before = video.read_bytes()
    guess(folder, Guess(), images="in", out="in")
    assert video.read_bytes() == before
    assert "would be replaced by its drawing" in capsys.readouterr().err


def test_the_report_shows_the_first_photographs_only(folder):
    guess(folder, Guess(), report_images=3)
    report = (folder / "out" / "report.html").read_text()
    assert report.count("data:image/jpeg") == 3
    assert "the first 3 of 8 photographs" in report
    assert len(predictions(folder)["images"]) == 8


def test_names_of_outputs_differ_even_where_a_number_looks_like_a_name():
    paths = [Path(name) for name in ("a-2.jpg", "a.jpg", "a.png", "b/a.jpg", "b/c.jpg")]
    assert unique_names(paths) == ["a-2", "a", "a-3", "a-4", "c"]
    assert unique_names(paths, ["c"]) == ["a-2", "a", "a-3", "a-4", "c-2"]


def test_processes_share_the_images_and_leave_what_one_would(tmp_path):
    make_photographs(tmp_path / "in")
    torch.manual_seed(0)
    model = solov2.SOLOv2(config := solov2.VARIANTS["shapes"], CLASSES)
    weights = tmp_path / "small.safetensors"
    save(weights, Checkpoint("solov2", to_dict(config), CLASSES, (1, 2), model.state_dict()))
    options = Predict([str(tmp_path / "in")], str(weights), str(tmp_path / "alone"), threshold=0.0, device="cpu")
    of_predictions(predict(solov2.load(weights), CLASSES, (1, 2), options))
    flags = ["--weights", weights, "--device", "cpu", "--threshold", 0, tmp_path / "in", "--out", tmp_path / "pair"]
    done = python("-m", "solov2.predict", *flags, cwd=tmp_path, processes=2)
    assert "5 photographs done, 3 files skipped" in done.stdout
    assert sum(line.startswith("skipped") for line in done.stderr.splitlines()) == 3
    one, other = (json.loads((tmp_path / out / "predictions.json").read_text()) for out in ("pair", "alone"))
    assert one == other
    files = [set(contents(tmp_path / out)) for out in ("pair", "alone")]
    assert files[0] == files[1]


PROGRAMS = [
    (maskrcnn.demo, "demo.py"),
    (refinemask_psg.predict, "predict.py"),
    (refinemask_psg.predict, "predict.py --submission made"),
    (refinemask_psg.predict, "predict.py --submission made --annotations psg.json"),
    (refinemask_psg.predict, "predict.py --model u2net"),
    (solov2.predict, "predict.py"),
]


@pytest.mark.parametrize("images", ["", "bare", "notes", "nowhere", "notes/*.jpg", "out"])
@pytest.mark.parametrize(("program", "line"), PROGRAMS, ids=[f"{each.__name__} {line}" for each, line in PROGRAMS])
def test_nothing_to_predict_is_one_line_and_status_2(
    tmp_path, monkeypatch, capsys, program: ModuleType, line: str, images: str
):
    monkeypatch.chdir(tmp_path)
    for name in ("bare", "notes", "out/drawings"):
        Path(name).mkdir(parents=True)
    Path("notes/notes.txt").touch()
    cv2.imwrite("out/drawings/0.png", np.zeros((4, 4, 3), np.uint8))  # what a run wrote
    model = Guess()
    model.scene_graph, model.config.relations = object(), SimpleNamespace(things=1)
    model.backbone = torch.nn.Identity()
    for package in (maskrcnn, refinemask_psg, solov2):
        monkeypatch.setattr(package, "load", lambda weights, device="": model)
    monkeypatch.setattr(refinemask_psg, "load_u2net", lambda weights, device="": model)
    model.class_names, model.category_ids = CLASSES, (1, 2)
    out = "elsewhere" if "demo" in line or "submission" in line else "out"
    words = [*line.split(), *images.split(), "--weights", "w", "--out", out, "--device", "cpu"]
    if (images, out) == ("out", "elsewhere"):
        pytest.skip("there it is an image like any other")
    assert status(program.main, *words[1:]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert model.asked == 0
