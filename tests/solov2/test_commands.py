"""The commands as a newcomer types them: train, evaluate, predict, convert, export."""

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import solov2
from common.errors import UserError
from maskworks import exporting, shapes
from maskworks.onnx_export import check, outside_both
from solov2 import export
from tests import small
from tests.running import READ, SKIPPED, call, evaluation, make_photographs, run, skipped_files, small_data
from tests.small import trained
from tests.solov2.test_convert import published_by_solo

SMALL = shlex.split(
    small.SMALL["solov2"][2] + " --test.score-threshold 0.005 --test.update-threshold 0 --test.max-instances 10 "
    "--augment.long-side 96 --augment.short-sides 96 --test.long-side 96 --test.short-side 96"
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("solov2", tmp_path_factory.mktemp("work"), *SMALL)


def test_training_writes_a_report_and_says_where(folder, weights):
    model = solov2.load(weights)
    assert model.class_names[0] == "person"
    assert 3 in model.category_ids
    report = (weights.parent / "report.html").read_text()
    assert report.count(', ground truth">') == 6
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_eval_without_arguments_scores_the_default_run(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("solov2/eval.py", "--workers", "0", cwd=folder)
    assert "AP50" in done.stdout
    written = evaluation(done.stdout, folder)
    assert written.parent == weights.parent
    scores = json.loads((written / "metrics.json").read_text())
    assert scores.keys() == {"segm", "bbox"}
    assert scores == trained
    predictions = json.loads((written / "predictions.json").read_text())
    assert {"image_id", "category_id", "segmentation", "score"} <= predictions[0].keys()


def test_eval_refuses_a_data_set_of_other_classes_with_both_lists(folder, weights, tmp_path):
    made = shapes.ensure("val", seed=5, count=6, cache=folder)
    content = json.loads(made.instances.read_text())
    content["categories"][0]["name"] = "gnome"
    (tmp_path / "other.json").write_text(json.dumps(content))
    flags = ["--data.val.images", made.images, "--data.val.annotations", tmp_path / "other.json"]
    done = run("solov2/eval.py", "--weights", weights, *flags, cwd=tmp_path, status=2)
    assert "gnome" in done.stderr
    assert "person" in done.stderr


def test_eval_without_a_run_says_what_to_do(tmp_path):
    done = run("solov2/eval.py", cwd=tmp_path, status=2)
    assert done.stderr.startswith("error: ")
    assert "--weights" in done.stderr


def test_predict_names_each_bad_file_and_handles_the_rest(weights, tmp_path):
    make_photographs(tmp_path / "in")
    done = run("solov2/predict.py", "--weights", weights, "in", "--out", "out", "--format", "labelme", cwd=tmp_path)
    assert skipped_files(done.stderr) == SKIPPED
    assert {path.stem for path in (tmp_path / "out" / "labelme").glob("*.json")} == READ
    assert "5 photographs done, 3 files skipped" in done.stdout
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    sizes = {Path(image["file_name"]).name: (image["height"], image["width"]) for image in content["images"]}
    assert sizes["large.png"] == (1000, 1250)
    assert sizes["one.png"] == (1, 1)
    assert {category["name"] for category in content["categories"]} == set(solov2.load(weights).class_names)
    for name in READ:
        assert (tmp_path / "out" / "drawings" / f"{name}.jpg").exists()
        assert cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert (tmp_path / "out" / "film.mp4").stat().st_size > 0
    assert "broken.jpg" in (tmp_path / "out" / "report.html").read_text()


def test_predict_with_nothing_readable_fails(weights, tmp_path):
    (tmp_path / "x.jpg").write_text("no")
    done = run("solov2/predict.py", "--weights", weights, "x.jpg", "--out", "out", cwd=tmp_path, status=2)
    assert "none of the photographs could be read" in done.stderr


def test_predict_with_only_broken_videos_fails(weights, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.mp4").write_text("no")
    done = run("solov2/predict.py", "--weights", weights, "in", "--out", "out", cwd=tmp_path, status=2)
    assert done.stderr.splitlines()[-1] == "error: none of the videos could be read"


def test_a_published_checkpoint_is_converted_and_predicts_the_same(weights, tmp_path):
    torch.manual_seed(0)
    variant = solov2.VARIANTS["light_r18_448"]
    model = solov2.SOLOv2(variant, [str(n) for n in range(80)]).eval()
    state = {published_by_solo(name): value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"epoch": 36}}, tmp_path / "SOLOv2_LIGHT_448_R18_3x.pth")
    listed = run("scripts/mmdet2pytorch.py", "SOLOv2_LIGHT_448_R18_3x.pth", "--dry-run", cwd=tmp_path)
    assert "bbox_head.solo_cate.weight" in listed.stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "SOLOv2_LIGHT_448_R18_3x.pth"]
    done = run("scripts/mmdet2pytorch.py", "SOLOv2_LIGHT_448_R18_3x.pth", "--out", "ours.safetensors", cwd=tmp_path)
    assert "light_r18_448" in done.stdout
    back = solov2.load(tmp_path / "ours.safetensors", trainable=True)
    assert back.class_names[0] == "person"
    assert back.category_ids[-1] == 90
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items())
    state["bbox_head.surprise.weight"] = state.pop("bbox_head.solo_cate.bias")
    torch.save(state, tmp_path / "odd.pth")
    odd = run("scripts/mmdet2pytorch.py", "odd.pth", cwd=tmp_path, status=2)
    assert "unexpected: bbox_head.surprise.weight" in odd.stderr
    assert "missing: category_kernel_head.category.bias" in odd.stderr


def test_training_goes_on_from_other_classes_and_from_a_torchvision_backbone(folder, weights, tmp_path):
    made = shapes.ensure("train", seed=5, count=6, cache=folder)
    content = json.loads(made.instances.read_text())
    content["categories"][0]["name"] = "gnome"
    (tmp_path / "other.json").write_text(json.dumps(content))
    data = []
    for split in ("train", "val"):
        data += [f"--data.{split}.images", made.images, f"--data.{split}.annotations", tmp_path / "other.json"]
    flags = ["--steps", "1", "--batch-size", "2", "--workers", "0", "--no-report"]
    done = run("solov2/train.py", *SMALL, *flags, *data, "--weights", weights, cwd=tmp_path)
    assert "the class layers start anew" in done.stderr
    body = solov2.load(weights, trainable=True).backbone.state_dict() | {"fc.weight": torch.zeros(10, 512)}
    torch.save(body, tmp_path / "body.pth")
    run("solov2/train.py", *SMALL, *flags, *data, "--weights", "body.pth", cwd=tmp_path)


@pytest.mark.slow  # tests/maskworks/test_exported.py shows the way of every export
def test_the_exported_file_finds_what_pytorch_finds_and_a_wrong_one_is_refused(weights, tmp_path, monkeypatch, capsys):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    call("solov2.export", "--weights", weights, "--out", "m.onnx")
    assert capsys.readouterr().out.count("in the file's answer too") == 3  # sizes
    wrong = onnx.load(tmp_path / "m.onnx")
    values = next(each for each in wrong.graph.initializer if each.name.endswith("head.kernel.weight"))
    changed = onnx.numpy_helper.to_array(values) * np.float32(1.2)
    values.CopyFrom(onnx.numpy_helper.from_array(changed, values.name))
    model = solov2.load(weights, trainable=True)
    graph, photograph = export.Graph(model).eval(), model.scaled(exporting.photograph(""))
    session = onnxruntime.InferenceSession(wrong.SerializeToString())
    with pytest.raises(UserError, match="not to be trusted"):
        check(graph, session, export.padded(photograph), export.read, outside_both, "a scene")


def test_tiles_of_training_are_those_of_evaluation_and_prediction(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    quick = ["--steps", 1, "--batch-size", 2, "--workers", 0, "--limit", 2, "--device", "cpu", "--no-report"]
    tiles = ["--data.tile", 96, "--data.overlap", 32, "--run", "run"]
    done = run("solov2/train.py", *SMALL, *quick, *tiles, *small_data(tmp_path, 2), cwd=tmp_path)
    assert "tiles of 96 pixels that share 32: 2 of 2 pictures are cut to train" in done.stdout
    assert len((tmp_path / "run/train.txt").read_text().split()) == 2
    weights, data = ["--weights", "run/best.safetensors"], small_data(tmp_path, 2)
    done = run("solov2/eval.py", *weights, "--workers", 0, *data, cwd=tmp_path)
    scored = json.loads((evaluation(done.stdout, tmp_path) / "metrics.json").read_text())
    assert scored == json.loads((tmp_path / "run/metrics.json").read_text())
    done = run("solov2/predict.py", *weights, data[5], "--out", "found", cwd=tmp_path)
    assert "photographs above 96 pixels a side are predicted in tiles that share 32" in done.stdout
    assert len(list((tmp_path / "found/masks").iterdir())) == 2
