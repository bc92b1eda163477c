"""The commands as a newcomer types them: train, evaluate, predict; and U-2-Net on its own."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskworks import exporting, shapes
from refinemask_psg import U2Net, export, load
from tests import small
from tests.running import READ, SKIPPED, evaluation, make_photographs, run, skipped_files, small_data
from tests.small import trained

SMALL = shlex.split(small.SMALL["refinemask"][2] + " --steps 1 --batch-size 2 --workers 0 --device cpu --no-report")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("refinemask", tmp_path_factory.mktemp("work"))


def test_eval_without_arguments_scores_the_default_run(weights, folder):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("refinemask_psg/eval.py", "--workers", "0", cwd=folder)
    scores = json.loads((evaluation(done.stdout, folder) / "metrics.json").read_text())
    assert scores.keys() == {"segm", "bbox"}
    assert scores == trained


def test_a_detector_without_masks_is_scored_by_its_boxes(folder, tmp_path):
    run("refinemask_psg/train.py", *SMALL, "--model.mask-heads", "0", *small_data(folder), cwd=tmp_path)
    scores = json.loads((tmp_path / "runs" / "refinemask_psg" / "shapes" / "metrics.json").read_text())
    assert scores.keys() == {"bbox"}


def test_predict_draws_what_it_can_read_and_names_what_it_cannot(weights, folder, tmp_path):
    make_photographs(tmp_path / "in")
    out = tmp_path / "out"
    done = run("refinemask_psg/predict.py", "--weights", weights, tmp_path / "in", "--out", out, cwd=folder)
    assert skipped_files(done.stderr) == SKIPPED
    assert {path.stem for path in (out / "drawings").rglob("*.jpg")} == READ


def test_u2net_writes_a_map_of_each_photographs_size(tmp_path):
    torch.manual_seed(0)
    torch.save(U2Net(small=True).state_dict(), tmp_path / "u2netp.pth")
    (tmp_path / "in").mkdir()
    noise = np.random.RandomState(0).randint(0, 256, (60, 80, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "in" / "good.jpg")
    Image.fromarray(noise[:, :30]).convert("L").save(tmp_path / "in" / "grey.png")
    (tmp_path / "in" / "broken.jpg").write_bytes(b"")
    flags = ["--model", "u2net", "--weights", "u2netp.pth", "in", "--out", "maps", "--size", "64"]
    done = run("refinemask_psg/predict.py", *flags, cwd=tmp_path)
    assert skipped_files(done.stderr) == {"broken.jpg"}
    maps = {path.stem: np.asarray(Image.open(path)).shape for path in (tmp_path / "maps").rglob("*.png")}
    assert maps == {"good": (60, 80), "grey": (60, 30)}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--augment.crop", "0.5"], "--model.mask-targets bitmaps"),
        (["--model.mask-channels", "20"], "a multiple of 8"),
        (["--model.semantic-weights", "u2net.pth"], "no semantic head"),
        (["--model.mask-hed", "plain"], "--model.mask-head"),
    ],
)
def test_a_mistake_is_one_clear_line(flags, said, folder):
    done = run("refinemask_psg/train.py", *flags, *small_data(folder), "--steps", "1", cwd=folder, status=2)
    assert said in done.stderr


def test_the_built_in_scene_to_check_with_fits_whatever_the_size(weights):
    model = load(weights)
    assert max(export.fitted(model, exporting.photograph(""), (96, 64)).shape[:2]) <= 96
    assert export.fitted(model, exporting.photograph(""), (96, 64)).shape[1] <= 64


@pytest.mark.slow  # yolact and maskrcnn show the way of every export quickly
def test_the_exported_file_agrees_with_pytorch(weights, folder):
    pytest.importorskip("onnxscript")
    flags = ["--weights", weights, "--out", "model.onnx", "--size", "96", "96"]
    photograph = next(shapes.ensure("val", seed=5, count=6, cache=folder).images.iterdir())
    done = run("refinemask_psg/export.py", *flags, "--image", photograph, cwd=folder, status=2)
    assert "does not fit into --size 96 96" in done.stderr
    done = run("refinemask_psg/export.py", *flags[:-2], "192", "192", cwd=folder)
    assert "in the file's answer too" in done.stdout
    assert (folder / "model.onnx").exists()
