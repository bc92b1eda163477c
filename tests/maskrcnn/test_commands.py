"""The commands as a newcomer types them: train, evaluate, predict, convert, export, and the demo."""

import json
import shlex
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import maskrcnn
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks import shapes
from tests import small
from tests.maskrcnn.test_convert import published_by_benchmark
from tests.running import call, evaluation, run
from tests.small import trained

SMALL = shlex.split(small.SMALL["maskrcnn"][2] + " --steps 1 --batch-size 2 --workers 0 --device cpu")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("maskrcnn", tmp_path_factory.mktemp("work"))


def test_training_writes_weights_and_a_report(weights):
    report = (weights.parent / "report.html").read_text()
    assert report.count(', ground truth">') == 6
    steps = [json.loads(line) for line in (weights.parent / "log.jsonl").read_text().splitlines()]
    assert {"objectness", "proposal_boxes", "category", "boxes", "mask"} <= steps[0].keys()
    assert maskrcnn.load(weights).class_names[0] == "person"


def test_eval_without_arguments_scores_the_default_run(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("maskrcnn/eval.py", "--workers", "0", cwd=folder)
    written = evaluation(done.stdout, folder)
    assert json.loads((written / "metrics.json").read_text()) == trained
    predictions = json.loads((written / "predictions.json").read_text())
    assert {"image_id", "category_id", "segmentation", "bbox", "score"} <= predictions[0].keys()


def test_a_union_without_masks_starts_from_other_classes(folder, weights, tmp_path):
    made = [shapes.ensure(split, seed=5, count=6, cache=folder) for split in ("train", "val")]
    data = ["--data.train.images", *(each.images for each in made)]
    files = []
    for number, each in enumerate(made):
        content = json.loads(each.instances.read_text())
        content["categories"][0]["name"] = "gnome"
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(content))
    data += ["--data.train.annotations", *files]
    data += ["--data.val.images", made[1].images, "--data.val.annotations", files[1]]
    done = run("maskrcnn/train.py", *SMALL, "--no-report", "--weights", weights, *data, cwd=tmp_path)
    assert "the class layers start anew" in done.stderr
    # without masks: Faster R-CNN, scored by its boxes
    run("maskrcnn/train.py", *SMALL, "--model.no-masks", *data, cwd=tmp_path)
    assert json.loads((tmp_path / "runs" / "maskrcnn" / "shapes" / "metrics.json").read_text()).keys() == {"bbox"}


def test_the_demo_draws_confident_objects_only(weights, tmp_path):
    Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(tmp_path / "one.png")
    for confidence, plain in ((0.0, False), (1.0, True)):
        flags = ["--weights", weights, "--confidence", confidence, "--device", "cpu"]
        run("maskrcnn/demo.py", *flags, "one.png", cwd=tmp_path)
        drawn = cv2.imread(str(tmp_path / "demo" / "one.jpg")).astype(int)
        assert (np.abs(drawn - 128).max() <= 1) == plain


def test_a_published_checkpoint_is_converted_and_predicts(tmp_path):
    torch.manual_seed(0)
    config = deepcopy(maskrcnn.VARIANTS["r50_fpn_1x"])
    model = maskrcnn.MaskRCNN(config, [str(number) for number in range(80)])
    state = {published_by_benchmark(name): value for name, value in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "e2e_mask_rcnn_R_50_FPN_1x.pth")
    done = run("scripts/mmdet2pytorch.py", "e2e_mask_rcnn_R_50_FPN_1x.pth", "--out", "ours.safetensors", cwd=tmp_path)
    assert "maskrcnn-benchmark, maskrcnn r50_fpn_1x" in done.stdout
    back = maskrcnn.load(tmp_path / "ours.safetensors", trainable=True)
    assert (back.class_names[0], back.category_ids[-1]) == ("person", 90)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.slow  # tests/maskworks/test_exported.py shows what happens where some are found
def test_an_exported_file_may_find_nothing(weights, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    model = maskrcnn.load(weights)
    model.config.test.score_threshold = 1.0
    monkeypatch.setattr("maskrcnn.load", lambda _, device: model)
    call("maskrcnn.export", "--weights", "", "--out", tmp_path / "m.onnx", "--size", 192, 192)
    assert "0 found, 0 of them in the file's answer too" in capsys.readouterr().out
    assert (tmp_path / "m.onnx").exists()


def test_a_graph_that_would_cap_proposals_twice_is_refused(weights, tmp_path):
    model = maskrcnn.load(weights, trainable=True)
    model.config.proposals.after_nms = 5
    described = Checkpoint("maskrcnn", to_dict(model.config), model.class_names, model.category_ids, model.state_dict())
    save(tmp_path / "odd.safetensors", described)
    done = run("maskrcnn/export.py", "--weights", "odd.safetensors", cwd=tmp_path, status=2)
    assert "caps proposals only once" in done.stderr
