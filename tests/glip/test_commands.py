"""The commands as a newcomer types them: train, evaluate, predict with prompts."""

import json
import shlex
import shutil
from pathlib import Path

import pytest

import glip
from maskworks import shapes
from tests import small
from tests.running import READ, SKIPPED, evaluation, make_photographs, run, skipped_files, small_data

SMALL = shlex.split(small.SMALL["glip"][2])
FLAGS = ["--steps", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder in which a small model was trained for two steps; the seventh scene has an unseen pair."""
    folder = tmp_path_factory.mktemp("work")
    run("glip/train.py", *SMALL, *FLAGS, *small_data(folder, 7, "captions"), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def weights(folder) -> Path:
    return folder / "runs" / "glip" / "shapes" / "best.safetensors"


def test_training_on_captions_scores_phrases_seen_and_unseen_and_their_grounding(weights):
    scores = json.loads((weights.parent / "metrics.json").read_text())
    assert scores.keys() == {"bbox", "seen", "unseen", "grounding"}
    assert scores["grounding"].keys() == {"R@1", "R@5", "R@10"}
    assert (weights.parent / "report.html").exists()


def test_eval_repeats_the_scores_of_training(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("glip/eval.py", "--workers", "0", "--no-report", cwd=folder)
    assert json.loads((evaluation(done.stdout, folder) / "metrics.json").read_text()) == trained


def test_eval_asks_for_a_data_sets_classes_by_name_or_in_other_words(folder, weights, tmp_path):
    made = shapes.ensure("val", seed=5, count=4, cache=folder)
    data = ["--data.val.images", made.images, "--data.val.annotations", made.instances, "--workers", "0"]
    done = run("glip/eval.py", "--weights", weights, *data, "--run", tmp_path / "own", cwd=tmp_path)
    assert json.loads((evaluation(done.stdout, tmp_path) / "metrics.json").read_text()).keys() == {"bbox"}
    words = "man. disc. box. tri. pentagram. hoop. plus. love."
    run("glip/eval.py", "--weights", weights, *data, "--run", tmp_path / "o", "--prompt", words, cwd=tmp_path)
    done = run("glip/eval.py", "--weights", weights, *data, "--prompt", "man. disc.", cwd=tmp_path, status=2)
    assert "8 classes" in done.stderr


def test_eval_of_a_folder_of_data_sets_gives_each_and_their_mean(folder, weights, tmp_path):
    made = shapes.ensure("val", seed=5, count=4, cache=folder)
    for name in ("Aquarium/raw", "pothole"):
        shutil.copytree(made.images, tmp_path / "odinw" / name / "test")
        shutil.copy(made.instances, tmp_path / "odinw" / name / "test" / "annotations_without_background.json")
    wording = [{"name": name, "prefix": "a ", "suffix": ""} for name in "abcdefgh"]
    (tmp_path / "odinw" / "pothole" / "wording.json").write_text(json.dumps(wording))
    flags = ["--workers", "0", "--run", tmp_path / "run", "--odinw", tmp_path / "odinw"]
    done = run("glip/eval.py", "--weights", weights, *flags, cwd=tmp_path)
    scores = json.loads((evaluation(done.stdout, tmp_path) / "metrics.json").read_text())
    assert scores.keys() == {"average", "Aquarium/raw", "pothole"}
    mean = (scores["Aquarium/raw"]["AP"] + scores["pothole"]["AP"]) / 2
    assert scores["average"]["AP"] == pytest.approx(mean)
    assert "Aquarium/raw, AP" in done.stdout and "pothole, AP" in done.stdout  # the tables of classes
    content = json.loads(made.instances.read_text())
    there = {entry["category_id"] for entry in content["annotations"] if not entry["iscrowd"]}
    assert all(entry["name"] in done.stdout for entry in content["categories"] if entry["id"] in there)


def test_predict_says_of_each_box_which_phrase_and_where_it_stands(weights, tmp_path):
    make_photographs(tmp_path / "in")
    text = "person. red circle. a man in a red shirt."
    flags = ["--weights", weights, "in", "--out", "out", "--threshold", "0", "--prompt", text]
    done = run("glip/predict.py", *flags, cwd=tmp_path)
    assert skipped_files(done.stderr) == SKIPPED
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {Path(image["file_name"]).stem for image in content["images"]} == READ
    assert [category["name"] for category in content["categories"]] == ["person", "red circle", "a man in a red shirt"]
    assert content["annotations"]
    for entry in content["annotations"]:
        ((start, end),) = entry["span"]
        assert entry["caption"][start:end] == entry["phrase"]
        assert content["categories"][entry["category_id"] - 1]["name"] == entry["phrase"]
    assert (tmp_path / "out" / "drawings" / "good.jpg").exists()
    assert (tmp_path / "out" / "film.mp4").exists()


def test_predict_takes_spans_of_a_caption(weights, tmp_path):
    make_photographs(tmp_path / "in")
    flags = ["in/good.jpg", "--out", "out", "--prompt", "a dog beside a red ball", "--spans", "15:23"]
    run("glip/predict.py", "--weights", weights, *flags, cwd=tmp_path)
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [category["name"] for category in content["categories"]] == ["red ball"]


def test_a_vocabulary_that_is_not_there_is_named(tmp_path):
    flags = ["glip_a_tiny_o365", *SMALL, *FLAGS, "--text.heads", "2", "--text.vocabulary", "nowhere.txt"]
    done = run("glip/train.py", *flags, *small_data(tmp_path, 2), cwd=tmp_path, status=2)
    assert "nowhere.txt: no vocabulary there" in done.stderr


def test_a_published_variant_trains_with_no_file_of_the_users(tmp_path):
    flags = ["glip_a_tiny_o365", *SMALL, *FLAGS, "--text.heads", "2", "--precision", "fp32", "--steps", "1"]
    run("glip/train.py", *flags, *small_data(tmp_path, 2), "--no-report", cwd=tmp_path)
    model = glip.load(tmp_path / "runs" / "glip" / "glip_a_tiny_o365" / "last.safetensors")
    assert model.tokeniser.encode("hair drier").ids == [101, 2606, 2852, 3771, 102]


def test_training_on_coco_annotations(tmp_path):
    run("glip/train.py", *SMALL, *FLAGS, *small_data(tmp_path, 2), "--no-report", cwd=tmp_path)
    model = glip.load(tmp_path / "runs" / "glip" / "shapes" / "best.safetensors")
    assert model.class_names == shapes_classes(tmp_path)


def shapes_classes(folder: Path) -> tuple[str, ...]:
    made = shapes.ensure("val", seed=5, count=2, cache=folder)
    return tuple(category["name"] for category in json.loads(made.instances.read_text())["categories"])
