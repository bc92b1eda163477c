"""The commands as a newcomer types them: train, evaluate, predict, convert, export; OCHuman's own file."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.detection import keypointrcnn_resnet50_fpn

import pose2seg
from common.errors import UserError
from common.ops import masks as rle
from maskworks import shapes
from maskworks.shapes.scene_files import KEYPOINT_NAMES
from scripts import prepare_ochuman
from tests.pose2seg.test_convert import published
from tests.running import call, evaluation, make_photographs, run, skipped_files, status
from tests.small import trained


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("pose2seg", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def made(folder) -> shapes.ShapesFolder:
    return shapes.ensure("val", seed=5, count=6, cache=folder)


def found_people(made: shapes.ShapesFolder, folder: Path) -> Path:
    """What a pose estimator could say of the validation images, one of them with two joints only."""
    people = [entry for entry in json.loads(made.keypoints.read_text())["annotations"] if entry["num_keypoints"] > 2]
    results = [{"image_id": p["image_id"], "category_id": 1, "keypoints": p["keypoints"], "score": 0.9} for p in people]
    results[0]["keypoints"] = [10, 10, 2, 20, 20, 2] + [0] * 45
    (folder / "found.json").write_text(json.dumps(results))
    return folder / "found.json"


def test_training_writes_weights_and_a_report(weights):
    assert (weights.parent / "report.html").read_text().count(', ground truth">') == 6
    assert pose2seg.load(weights).class_names == ("person",)


def test_eval_without_arguments_scores_the_default_run(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("pose2seg/eval.py", "--workers", 0, "--test.maps", "maps", cwd=folder)
    assert "AP50" in done.stdout
    written = evaluation(done.stdout, folder)
    scores = json.loads((written / "metrics.json").read_text())
    assert scores == trained
    assert {"segm", "segm 0.00-0.50"} <= scores.keys()
    predictions = json.loads((written / "predictions.json").read_text())
    assert {prediction["score"] for prediction in predictions} == {1.0}
    assert len(list((folder / "maps").iterdir())) == 6


def test_one_run_scores_cocopersons_and_ochuman(weights, made, tmp_path):
    for name in ("coco/val2017", "ochuman/images"):
        (tmp_path / "datasets" / name).parent.mkdir(parents=True)
        (tmp_path / "datasets" / name).symlink_to(made.images)
        (tmp_path / "datasets" / name).parent.joinpath("annotations").mkdir()
    for name in (
        "coco/annotations/person_keypoints_val2017_pose2seg.json",
        *(f"ochuman/annotations/ochuman_coco_format_{split}_range_0.00_1.00.json" for split in ("val", "test")),
    ):
        (tmp_path / "datasets" / name).write_bytes(made.keypoints.read_bytes())
    flags = ["--weights", weights, "--run", "out", "--workers", 0]
    done = run("pose2seg/eval.py", "--coco", "--OCHuman", *flags, cwd=tmp_path)
    written = evaluation(done.stdout, tmp_path)
    scores = json.loads((written / "metrics.json").read_text())
    assert list(scores) == ["COCOPersons val", "OCHuman val", "OCHuman test"]
    assert scores["OCHuman test"]["segm"] == scores["COCOPersons val"]["segm"]
    assert (written / "predictions-OCHuman-val.json").exists()


def test_the_papers_data_sets_lie_where_the_flags_say(weights, made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--weights", weights, "--run", "out", "--workers", 0, "--OCHuman", "--device", "cpu"]
    for part in ("val", "test"):
        flags += [f"--data.ochuman-{part}.annotations", str(made.keypoints)]
    with pytest.raises(UserError, match=r"expected OCHuman val's images, which --data\.ochuman-val\.images"):
        call("pose2seg.eval", *flags)
    both = [word for part in ("val", "test") for word in (f"--data.ochuman-{part}.images", str(made.images))]
    call("pose2seg.eval", *flags, *both)
    assert "OCHuman test" in capsys.readouterr().out


def test_eval_takes_joints_that_somebody_else_found(weights, made, tmp_path):
    data = ["--data.val.images", made.images, "--data.val.annotations", made.keypoints]
    flags = ["--weights", weights, "--run", "out", "--workers", 0, "--data.keypoints", found_people(made, tmp_path)]
    done = run("pose2seg/eval.py", *flags, *data, cwd=tmp_path)
    predictions = json.loads((evaluation(done.stdout, tmp_path) / "predictions.json").read_text())
    assert {round(prediction["score"], 4) for prediction in predictions} == {0.9}
    assert len(predictions) == len(json.loads((tmp_path / "found.json").read_text()))


def test_predict_draws_people_and_reports_who_has_too_few_joints(weights, made, tmp_path):
    found = found_people(made, tmp_path)
    flags = ["--weights", weights, "--keypoints", found, "--out", "out"]
    done = run("pose2seg/predict.py", *flags, made.images, cwd=tmp_path)
    people = json.loads(found.read_text())
    name = f"{people[0]['image_id']:012d}"
    assert f"{name}.png: person 1: 2 visible keypoints, 3 are needed" in done.stderr
    assert f"6 photographs done ({len(people) - 1} people, 1 left out), 0 files skipped" in done.stdout
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(content["annotations"]) == len(people) - 1
    assert "2 visible keypoints" in (tmp_path / "out" / "report.html").read_text()
    drawn = cv2.imread(str(tmp_path / "out" / "drawings" / f"{people[-1]['image_id']:012d}.jpg"))
    plain = cv2.imread(str(made.images / f"{people[-1]['image_id']:012d}.png"))
    assert np.abs(drawn.astype(int) - plain).max() > 100  # the skeleton


def test_predict_without_joints_says_what_it_needs(weights, made, tmp_path):
    done = run("pose2seg/predict.py", "--weights", weights, made.images, cwd=tmp_path, status=2)
    assert "expected either --keypoints or --detector" in done.stderr


@pytest.mark.slow
def test_predict_finds_joints_with_torchvisions_detector_also_in_videos(weights, tmp_path):
    torch.manual_seed(0)
    detector = keypointrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(detector.state_dict(), tmp_path / "keypointrcnn.pth")
    make_photographs(tmp_path)
    flags = ["--detector", "keypointrcnn.pth", "--smallest-score", 0, "--smallest-joint-score", -100]
    files = ["good.jpg", "broken.jpg", "film.mp4"]
    done = run("pose2seg/predict.py", "--weights", weights, *flags, *files, "--out", "out", cwd=tmp_path)
    assert skipped_files(done.stderr) == {"broken.jpg"}
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [Path(image["file_name"]).name for image in content["images"]] == ["good.jpg"]
    assert content["annotations"]
    assert (tmp_path / "out" / "film.mp4").stat().st_size > 0


@pytest.mark.slow
def test_a_published_checkpoint_is_converted_and_predicts_the_same(tmp_path):
    torch.manual_seed(0)
    model = pose2seg.Pose2Seg(pose2seg.VARIANTS["coco_occ"]).eval()
    torch.save(
        {published(name): value for name, value in model.state_dict().items()}, tmp_path / "pose2seg_release.pkl"
    )
    run("scripts/mmdet2pytorch.py", "pose2seg_release.pkl", "--out", "here.safetensors", cwd=tmp_path)
    converted = pose2seg.load(tmp_path / "here.safetensors", trainable=True)
    assert converted.class_names == ("person",)
    image, joints = np.zeros((60, 80, 3), np.uint8), np.full((1, 17, 3), 2.0)
    assert converted.predict([image], [joints])[0].masks.equal(model.predict([image], [joints])[0].masks)


@pytest.mark.slow
def test_an_exported_file_agrees_with_pytorch(weights, tmp_path):
    pytest.importorskip("onnxscript")
    done = run("pose2seg/export.py", "--weights", weights, "--out", "model.onnx", "--people", 4, cwd=tmp_path)
    assert "in the file's answer too" in done.stdout
    assert (tmp_path / "model.onnx").stat().st_size > 0


def ochuman(people: list[dict[str, object]]) -> dict[str, object]:
    """OCHuman's own format: other joints in another order, and images without masks or joints among the rest."""
    names = ["head", "neck", *reversed(KEYPOINT_NAMES)]
    points = [number for at in range(len(names)) for number in (float(at), 100.0 + at, at % 4)]
    outer = [[10, 10, 50, 10, 50, 50, 10, 50]]
    hole = [[20, 20, 30, 20, 30, 30, 20, 30]]
    whole = {"keypoints": points, "segms": {"outer": outer, "inner": hole, "height": 60, "width": 80}}
    entries = [{"bbox": [10, 10, 50, 50], "max_iou": 0.0} | whole | changes for changes in people]
    images = [
        {"image_id": f"{n}", "file_name": f"{n}.jpg", "width": 80, "height": 60, "annotations": [entry]}
        for n, entry in enumerate(entries)
    ]
    return {"keypoint_names": names, "images": images}


def test_ochumans_own_file_becomes_coco_files_by_range(tmp_path):
    people = [{"max_iou": 0.6}, {"max_iou": 0.75}, {"keypoints": None}, {"segms": None}, {"max_iou": 1.0}]
    people += [{"max_iou": 0.1}] * 2500
    (tmp_path / "ochuman.json").write_text(json.dumps(ochuman(people)))
    assert status(prepare_ochuman.main, tmp_path / "ochuman.json", "--out", tmp_path / "out") == 0
    read = {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}
    counts = {name.removeprefix("ochuman_coco_format_"): len(content["annotations"]) for name, content in read.items()}
    assert counts == {
        "val_range_0.00_1.00.json": 2499,  # the first 2500 complete images, less the one at exactly 1
        "val_range_0.50_0.75.json": 1,
        "val_range_0.75_1.00.json": 1,
        "test_range_0.00_1.00.json": 3,
        "test_range_0.50_0.75.json": 0,
        "test_range_0.75_1.00.json": 0,
    }
    content = read["ochuman_coco_format_val_range_0.75_1.00.json"]
    person, image = content["annotations"][0], content["images"][0]
    assert (image["id"], image["file_name"], person["id"], person["image_id"]) == (1, "1.jpg", 1, 1)
    assert (person["bbox"], person["area"], person["max_iou"]) == ([10, 10, 40, 40], 1600, 0.75)
    nose = 1 + len(KEYPOINT_NAMES)  # the last of OCHuman's names here
    assert person["keypoints"][:3] == [nose, 100 + nose, {0: 0, 1: 2, 2: 2, 3: 1}[nose % 4]]
    assert rle.area([person["segmentation"]]).tolist() == [1600 - 100]


def test_another_json_is_not_taken_for_ochuman(tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"images": []}')
    assert status(prepare_ochuman.main, tmp_path / "other.json") == 2
    assert "expected OCHuman's own ochuman.json" in capsys.readouterr().err
