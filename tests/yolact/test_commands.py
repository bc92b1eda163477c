"""The commands as a newcomer types them: train, evaluate, draw, measure, predict, convert, export."""

import json
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import yolact
from common import shapes
from common.configuration import to_yaml
from common.images import read_frames
from tests.running import READ, SKIPPED, evaluation, make_photographs, run, skipped_files, small_data
from tests.yolact.test_convert import published_by_dbolya
from yolact.eval import write_result_files
from yolact.train import scaled

SMALL = shlex.split(
    "--model.input-size 96 --model.channels 32 --model.scales 8 16 32 64 96 --test.score-threshold 0.01"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A working folder in which a small model was trained for two steps."""
    folder = tmp_path_factory.mktemp("work")
    flags = ["--steps", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
    done = run("yolact/train.py", *SMALL, *flags, *small_data(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def weights(folder) -> Path:
    return folder / "runs" / "yolact" / "shapes" / "best.safetensors"


def test_training_writes_a_report_and_its_scores(weights):
    assert weights.exists()
    assert (weights.parent / "report.html").exists()
    assert json.loads((weights.parent / "metrics.json").read_text()).keys() == {"segm", "bbox"}


def test_eval_without_arguments_scores_the_default_run(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("yolact/eval.py", "--workers", "0", cwd=folder)
    assert done.returncode == 0, done.stderr
    written = evaluation(done.stdout, folder)
    scored = json.loads((written / "metrics.json").read_text())
    assert scored.keys() == trained.keys()
    assert all(scored[kind] == pytest.approx(trained[kind]) for kind in trained)
    boxes, masks = (json.loads((written / f"{kind}_detections.json").read_text()) for kind in ("bbox", "mask"))
    assert len(boxes) == len(masks) > 0
    assert set(boxes[0]) == {"image_id", "category_id", "bbox", "score"}
    assert set(masks[0]) == {"image_id", "category_id", "segmentation", "score"}
    assert all(width > 0 and height > 0 for _, _, width, height in (entry["bbox"] for entry in boxes))


def test_result_files_have_the_boxes_and_the_masks_own_scores(tmp_path):
    entry = {"image_id": 1, "category_id": 2, "bbox": [0.04, 1.0, 2.0, 3.0], "segmentation": {}, "score": 0.9}
    (tmp_path / "predictions.json").write_text(json.dumps([entry | {"mask_score": 0.6}]))
    write_result_files(tmp_path)
    boxes, masks = (json.loads((tmp_path / f"{kind}_detections.json").read_text()) for kind in ("bbox", "mask"))
    assert (boxes[0]["score"], boxes[0]["bbox"][0]) == (0.9, 0.0)
    assert masks[0]["score"] == 0.6


def test_eval_draws_a_photograph_a_folder_and_a_video(weights, tmp_path):
    make_photographs(tmp_path / "in")
    flags = ["--weights", weights, "--score-threshold", "0", "--top-k", "5", "--device", "cpu"]
    for argument in (["in/good.jpg:out/one.png"], ["in/good.jpg", "out/two.png"]):
        done = run("yolact/eval.py", "--image", *argument, *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out" / "one.png").size == (80, 60)
    assert (tmp_path / "out" / "one.png").read_bytes() == (tmp_path / "out" / "two.png").read_bytes()
    done = run("yolact/eval.py", "--images=in:out/all", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 of 7 photographs written" in done.stdout
    assert Image.open(tmp_path / "out" / "all" / "deep" / "cmyk.jpg").size == (80, 60)
    done = run("yolact/eval.py", "--video", "in/film.mp4:out/film.mp4", *flags, "--batch-size", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    frames = list(read_frames(tmp_path / "out" / "film.mp4"))
    assert len(frames) == 3
    assert frames[0][:6, :40].mean() < 60 < frames[0][30:].mean()  # the speed's black ground


def test_eval_measures_every_stage(weights, tmp_path):
    make_photographs(tmp_path / "in")
    flags = ["--weights", weights, "--photographs", "in/good.jpg", "in/grey.jpg", "--device", "cpu"]
    done = run("yolact/eval.py", "--benchmark", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert set(rows) == {"prepare", "network", "post-process", "total"}
    assert "99% within" in done.stdout
    assert "2 photographs one at a time, cpu, fp32" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--image", "a.jpg"], "IN:OUT"),
        (["--images", "nowhere:out"], "no such folder"),
        (["--video", "nowhere.mp4:out.mp4"], "no such video"),
    ],
)
def test_eval_says_what_it_wants(weights, tmp_path, flags, words):
    done = run("yolact/eval.py", *flags, "--weights", weights, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_predict_names_each_bad_file_and_handles_the_rest(weights, tmp_path):
    make_photographs(tmp_path / "in")
    done = run("yolact/predict.py", "--weights", weights, "in", "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert skipped_files(done.stderr) == SKIPPED
    for name in READ:
        assert (tmp_path / "out" / "drawings" / f"{name}.jpg").exists()
        assert cv2.imread(str(tmp_path / "out" / "masks" / f"{name}.png"), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert (tmp_path / "out" / "film.mp4").stat().st_size > 0


def test_a_loaded_model_predicts_draws_and_names_its_classes(weights, tmp_path):
    make_photographs(tmp_path / "in")
    model = yolact.load(weights)
    result = model.predict([tmp_path / "in" / "good.jpg"])[0]
    result.draw().save(tmp_path / "drawn.png")
    assert Image.open(tmp_path / "drawn.png").size == (80, 60)
    assert model.class_names[0] == "person"


def test_training_goes_on_from_other_classes_published_files_and_backbones(folder, weights, tmp_path):
    made = shapes.ensure("train", seed=5, count=6, cache=folder)
    content = json.loads(made.instances.read_text())
    content["categories"][0]["name"] = "gnome"
    (tmp_path / "other.json").write_text(json.dumps(content))
    data = []
    for split in ("train", "val"):
        data += [f"--data.{split}.images", made.images, f"--data.{split}.annotations", tmp_path / "other.json"]
    flags = [*SMALL, "--steps", "1", "--batch-size", "2", "--workers", "0", "--no-report", *data]
    done = run("yolact/train.py", *flags, "--weights", weights, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the class layers start anew" in done.stderr
    model = yolact.load(weights)
    torch.save({published_by_dbolya(n): v for n, v in model.state_dict().items()}, tmp_path / "published.pth")
    done = run("yolact/train.py", *flags, "--weights", "published.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    torch.save(model.backbone.state_dict() | {"fc.weight": torch.zeros(10, 512)}, tmp_path / "body.pth")
    done = run("yolact/train.py", *flags, "--weights", "body.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_recipe_follows_the_batch_size_once():
    config = yolact.VARIANTS["resnet50_550"]
    config = type(config)(**{name: getattr(config, name) for name in vars(config)})
    config.training = type(config.training)(**vars(config.training) | {"batch_size": 16})
    config.optimizer = type(config.optimizer)(**vars(config.optimizer))
    config.schedule = type(config.schedule)(**vars(config.schedule))
    for _ in range(2):  # the second time as from the run's own config.yaml
        config = scaled(config)
        assert config.training.steps == 400_000
        assert config.optimizer.lr == pytest.approx(2e-3)
        assert config.schedule.milestones == [140_000, 300_000, 350_000, 375_000]
    assert "recipe_batch_size: 16" in to_yaml(config)


@pytest.mark.parametrize("name", ["train", "eval", "predict", "export"])
def test_help_lists_the_settings(name, tmp_path):
    done = run(f"yolact/{name}.py", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert ("--optimizer.lr" if name in ("train", "eval") else "--weights") in done.stdout


def test_the_exported_file_finds_what_pytorch_finds_at_any_size(weights, tmp_path):
    pytest.importorskip("onnxruntime")
    done = run("yolact/export.py", "--weights", weights, "--out", "m.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mask IoU with PyTorch at least") == 2
    assert (tmp_path / "m.onnx").exists()
