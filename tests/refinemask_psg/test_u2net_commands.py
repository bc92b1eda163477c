"""U-2-Net's own train, eval, predict and export, in this process; training goes on exactly."""

import json
import shlex
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.batches import Batch, Target
from common.errors import UserError
from common.run.checkpoint import load as load_checkpoint
from common.run.training import Trainer
from refinemask_psg.u2net import U2Net, load
from refinemask_psg.u2net.network import map_losses
from tests.running import call, evaluation, small_data, status

U2NET = "refinemask_psg.u2net"
SMALL = shlex.split("--augment.size 40 --augment.crop 32 --test.size 32 --batch-size 2 --workers 0 --device cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A run of three steps."""
    folder = tmp_path_factory.mktemp("work") / "run"
    call(f"{U2NET}.train", *SMALL, *data, "--steps", 3, "--run", folder)
    return folder


class Killed(BaseException):
    pass


def test_a_run_that_was_killed_goes_on_bit_for_bit(folder, data, tmp_path, monkeypatch):
    flags = [*SMALL, *data, "--steps", 3, "--save-every", 1, "--no-report", "--run", tmp_path / "run"]
    save = Trainer._save

    def save_and_die(trainer):
        save(trainer)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", save_and_die)
        with pytest.raises(Killed):
            call(f"{U2NET}.train", *flags)
    call(f"{U2NET}.train", *flags, "--resume")
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "metrics" not in line] == [1, 2, 3]
    whole, resumed = (load_checkpoint(run / "last.safetensors").weights for run in (folder, tmp_path / "run"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_leaves_scores_and_a_report(folder):
    scores = json.loads((folder / "metrics.json").read_text())
    assert list(scores) == ["saliency"]
    assert list(scores["saliency"]) == ["MAE", "maxF", "meanF", "adaptiveF", "S"]
    assert (folder / "report.html").read_text().count(', ground truth">') == 6


def test_eval_scores_a_run_as_training_did(folder, data, capsys):
    call(f"{U2NET}.eval", "--weights", folder / "best.safetensors", "--workers", 0, *data)
    written = evaluation(capsys.readouterr().out, folder)
    assert json.loads((written / "metrics.json").read_text()) == json.loads((folder / "metrics.json").read_text())


def test_eval_takes_a_published_file_and_folders_of_masks(tmp_path, capsys):
    """The scores are those of the pictures that predict writes."""
    torch.manual_seed(0)
    torch.save(U2Net(small=True).state_dict(), tmp_path / "u2netp.pth")
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
    noise = np.random.RandomState(0).randint(0, 256, (30, 44, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "image/a.png")
    Image.fromarray(np.full((30, 44), 255, np.uint8)).save(tmp_path / "mask/a.png")
    flags = ["--data.val.images", tmp_path / "image", "--data.val.annotations", tmp_path / "mask", "--test.size", 32]
    weights = ["--weights", tmp_path / "u2netp.pth"]
    call(f"{U2NET}.eval", *weights, "--run", tmp_path / "run", "--workers", 0, *flags)
    scores = json.loads((evaluation(capsys.readouterr().out, tmp_path) / "metrics.json").read_text())["saliency"]
    out = tmp_path / "maps"
    call(f"{U2NET}.predict", *weights, tmp_path / "image", "--out", out, "--size", 32)
    matte = np.asarray(Image.open(out / "a.png")).astype(float)
    stretched = (matte - matte.min()) / (matte.max() - matte.min())
    assert scores["MAE"] == pytest.approx(1 - stretched.mean())


def test_predict_writes_maps_and_cutouts(folder, tmp_path, capsys):
    noise = np.random.RandomState(0).randint(0, 256, (30, 44, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in/a.png")
    out = tmp_path / "out"
    call(f"{U2NET}.predict", "--weights", folder / "best.safetensors", tmp_path / "in", "--out", out, "--cutouts")
    assert f"1 maps written: {out.resolve()}" in capsys.readouterr().out
    matte = np.asarray(Image.open(out / "a.png"))
    assert np.array_equal(matte, load(folder / "best.safetensors").predict(noise))
    cutout = np.asarray(Image.open(out / "cutouts/a.png"))
    assert np.array_equal(cutout, np.dstack((noise, matte)))


def test_a_photograph_is_never_replaced_by_its_map(folder, tmp_path, capsys):
    Image.new("RGB", (44, 30), "red").save(tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    line = ["--weights", folder / "best.safetensors", tmp_path / "a.png", "--out", tmp_path]
    assert status(import_module("refinemask_psg.u2net.predict").main, *line) == 2
    assert "name another folder with --out" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.slow  # yolact and maskrcnn show the way of every export quickly
def test_an_exported_file_agrees_with_pytorch(folder, tmp_path, capsys):
    pytest.importorskip("onnxscript")
    import onnxruntime

    call(f"{U2NET}.export", "--weights", folder / "best.safetensors", "--out", tmp_path / "model.onnx")
    assert "largest difference" in capsys.readouterr().out
    image = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)  # needs no scaling
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": (image / 255).astype(np.float32).transpose(2, 0, 1)[None]})
    matte = load(folder / "best.safetensors").predict(image).astype(float)
    assert np.abs(found[0] * 255 - matte).max() < 1.1  # a byte is rounded down


def test_a_single_crop_too_small_to_be_normalised_is_one_clear_line(data, tmp_path):
    with pytest.raises(UserError, match=r"--augment\.crop 32: one crop at a time is a single pixel"):
        call(f"{U2NET}.train", *SMALL, *data, "--steps", 1, "--batch-size", 1, "--run", tmp_path / "run")
    larger = shlex.split("--batch-size 1 --augment.crop 33 --no-report --steps 1")
    call(f"{U2NET}.train", *SMALL, *data, *larger, "--run", tmp_path / "run")


def test_training_starts_from_a_published_file(data, tmp_path):
    torch.manual_seed(0)
    published = U2Net(small=True).state_dict()
    torch.save(published, tmp_path / "u2netp.pth")
    run = tmp_path / "run"
    flags = ["--steps", 1, "--optimizer.lr", 0, "--no-report", "--run", run]
    call(f"{U2NET}.train", *SMALL, *data, *flags, "--weights", tmp_path / "u2netp.pth")
    weights = load_checkpoint(run / "last.safetensors").weights
    assert all(torch.equal(weights[name], published[name]) for name, _ in U2Net(small=True).named_parameters())


def test_a_batch_is_divided_by_its_brightest_value_and_loses_what_the_formula_says():
    torch.manual_seed(0)
    model = U2Net(small=True).eval()
    pixels = np.random.RandomState(0).randint(0, 201, (32, 32, 3)).astype(np.uint8)
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    mask[4:20, 8:30], mask[25:] = 200, 100
    target = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 32, 32).bool(), semantic=mask)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    with torch.no_grad():
        found = model.losses(Batch(image, torch.tensor([[32, 32]]), [target]))
        expected = map_losses(model(model.preprocess(pixels, 32)[None]), mask[None, None] / 200)
    assert list(found) == ["fused", "side1", "side2", "side3", "side4", "side5", "side6"]
    assert [*map(float, found.values())] == pytest.approx([*map(float, expected)], rel=1e-5)
