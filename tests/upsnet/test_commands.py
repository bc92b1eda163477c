"""The commands as a newcomer types them: train, evaluate, predict, export, several processes."""

import json
from pathlib import Path

import cv2
import pytest

import upsnet
from common.metrics import evaluate_panoptic
from maskworks import shapes
from tests.running import READ, ROOT, SKIPPED, evaluation, make_photographs, python, run, skipped_files
from tests.small import trained


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("upsnet", tmp_path_factory.mktemp("work"), count=4)


def test_a_run_keeps_what_the_data_says_of_things(weights):
    model = upsnet.load(weights)
    assert (model.things, model.stuff) == (8, 5)
    assert model.class_names[0] == "person"
    assert model.class_names[8] == "sky"
    report = (weights.parent / "report.html").read_text()
    assert report.count(', ground truth">') == 4


@pytest.mark.parametrize("things", [0, 1])
def test_data_without_things_or_without_stuff_is_refused(things, tmp_path):
    made = shapes.ensure("train", seed=5, count=2, cache=tmp_path)
    content = json.loads(made.panoptic.read_text())
    for category in content["categories"]:
        category["isthing"] = things
    made.panoptic.write_text(json.dumps(content))
    files = ["--data.train.images", made.images, "--data.train.annotations", made.panoptic]
    files += ["--data.val.images", made.images, "--data.val.annotations", made.panoptic]
    done = run("upsnet/train.py", "--device", "cpu", *map(str, files), cwd=tmp_path, status=2)
    count = f"{13 * things} of its 13 classes are things"
    assert done.stderr.splitlines()[-1].startswith(f"error: the training set: {count} (isthing: 1); UPSNet needs")


def test_eval_writes_what_cocos_server_takes(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("upsnet/eval.py", "--workers", "0", cwd=folder)
    assert "triangle" in done.stdout
    written = evaluation(done.stdout, folder)
    scores = json.loads((written / "metrics.json").read_text())
    assert scores == trained
    assert scores.keys() == {"panoptic", "segm", "bbox", "semantic"}
    truth = shapes.ensure("val", seed=5, count=4, cache=folder)
    again = evaluate_panoptic(truth.panoptic, written / "panoptic.json")
    assert json.loads(json.dumps(again)) == scores["panoptic"]


def test_two_processes_score_exactly_as_one(folder, weights, tmp_path):
    alone = json.loads((weights.parent / "metrics.json").read_text())
    asked = ["--weights", str(weights), "--run", str(tmp_path), "--workers", "0"]
    done = python(ROOT / "upsnet" / "eval.py", *asked, cwd=folder, processes=2)
    written = evaluation(done.stdout, folder)
    assert written.parent == tmp_path
    assert json.loads((written / "metrics.json").read_text()) == alone
    assert len(list((written / "panoptic").iterdir())) == 4


def test_predict_writes_maps_and_drawings_and_names_each_bad_file(weights, tmp_path):
    make_photographs(tmp_path / "in")
    (tmp_path / "in" / "large.png").unlink()
    done = run("upsnet/predict.py", "--weights", weights, "in", "--out", "out", cwd=tmp_path)
    assert skipped_files(done.stderr) == SKIPPED
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert {bool(category["isthing"]) for category in content["categories"]} == {True, False}
    for name in READ - {"large"}:
        assert (tmp_path / "out" / "drawings" / f"{name}.jpg").exists()
    entry = next(each for each in content["annotations"] if Path(each["file_name"]).stem == "good")
    picture = cv2.imread(str(next((tmp_path / "out").rglob("good.png")))).astype(int)
    assert picture.shape == (60, 80, 3)
    ids = set((picture[..., 2] + 256 * picture[..., 1] + 65536 * picture[..., 0]).ravel().tolist())
    assert {segment["id"] for segment in entry["segments_info"]} == ids - {0}


@pytest.mark.slow  # yolact and maskrcnn show the way of every export quickly
def test_the_exported_file_says_what_pytorch_says(weights, tmp_path):
    pytest.importorskip("onnxruntime")
    done = run("upsnet/export.py", "--weights", weights, "--out", "m.onnx", "--instances", "3", cwd=tmp_path)
    assert "in the file's answer too" in done.stdout
    assert (tmp_path / "m.onnx").exists()
