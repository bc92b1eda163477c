"""ONNX files: what they say of themselves, and that they find what PyTorch finds, in pictures of other sizes too."""

import json
import sys
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import cv2
import pytest
import torch

import maskworks
from common.data.images import resize
from common.errors import UserError
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks import exported
from maskworks.__main__ import start
from maskworks.packages import NETWORKS
from maskworks.shapes.scenes import draw_scene
from tests.running import call
from tests.tiny import CLASSES, SIDE, tiny

IDS = (4, 7, 9)


SLOW = [pytest.param(package, marks=pytest.mark.slow) for package in ("solov2", "maskrcnn", "refinemask_psg")]


@pytest.fixture(scope="module", params=["yolact", *SLOW])  # 20 to 50 s each, torch.export's
def files(request, tmp_path_factory):
    """A package's name, a checkpoint and what export.py made of it."""
    pytest.importorskip("onnxruntime")
    package, folder = request.param, tmp_path_factory.mktemp("exported")
    module, config = import_module(package), tiny(package)
    torch.manual_seed(3)
    model = getattr(module, NETWORKS[package])(config, CLASSES, IDS)
    save(folder / "m.safetensors", Checkpoint(package, to_dict(config), CLASSES, IDS, model.state_dict()))
    with redirect_stdout(StringIO()) as said:
        call(f"{package}.export", "--weights", folder / "m.safetensors", "--out", folder / "m.onnx")
    assert " found, 0 of" not in said.getvalue()
    assert "in the file's answer too" in said.getvalue()
    return package, folder


def test_a_file_says_what_it_is(files):
    package, folder = files
    said = exported.words_in(folder / "m.onnx")
    assert (said["package"], said["variant"], said["version"]) == (package, "shapes", maskworks.__version__)
    assert (said["channels"], int(said["opset"]) >= 18) == ("rgb", True)
    assert (json.loads(said["class_names"]), json.loads(said["category_ids"])) == ([*CLASSES], [*IDS])
    assert json.loads(said["thresholds"])["score_threshold"] == tiny(package).test.score_threshold
    assert json.loads(said["size"]) == (None if package in ("solov2", "yolact") else [SIDE, SIDE])


@pytest.mark.parametrize("side", [SIDE, 57, 200])
def test_a_file_finds_what_pytorch_finds(files, side):
    _, folder = files
    picture = resize(draw_scene(0, "val", 3).image, side, side)
    ours = maskworks.load(folder / "m.safetensors", device="cpu").predict(picture)
    theirs = maskworks.load(folder / "m.onnx").predict(picture)
    assert len(ours) == len(theirs) > 0
    assert (theirs.size, theirs.category_ids, theirs.names) == ((side, side), IDS, ours.names)
    torch.testing.assert_close(theirs.scores, ours.scores, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(theirs.boxes, ours.boxes, atol=1.0 + 1e-3, rtol=0)  # a pixel that rounding decides
    assert (theirs.masks ^ ours.masks).float().mean() < 1e-3


def test_predict_writes_the_same_files_for_an_exported_one(files, tmp_path, monkeypatch):
    _, folder = files
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", cv2.resize(draw_scene(0, "val", 3).image, (120, 120)))
    for kind in ("safetensors", "onnx"):
        start(
            "predict",
            ["a.png", "--weights", f"{folder}/m.{kind}", "--out", kind, "--threshold", "0", "--device", "cpu"],
        )
    ours, theirs = ({path.name for path in (tmp_path / kind).rglob("*")} for kind in ("safetensors", "onnx"))
    assert ours == theirs >= {"predictions.json", "report.html", "drawings"}
    ours, theirs = (json.loads((tmp_path / kind / "predictions.json").read_text()) for kind in ("safetensors", "onnx"))
    assert len(ours["annotations"]) == len(theirs["annotations"]) > 0
    for one, other in zip(ours["annotations"], theirs["annotations"], strict=True):
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_what_an_exported_file_cannot_do_is_a_line(files, monkeypatch, tmp_path, capsys):
    package, folder = files
    file, words = f"{folder}/m.onnx", ["a.png", "--weights", f"{folder}/m.onnx"]
    with pytest.raises(UserError, match="an ONNX file can only predict"):
        import_module(package).load(file)
    with pytest.raises(SystemExit):
        start("predict", [*words, "--device", "cuda"])
    assert "m.onnx: runs on the processor, as exported; leave out --device cuda" in capsys.readouterr().err
    with pytest.raises(UserError, match="runs on the processor"):
        maskworks.load(file, precision="fp16")
    import onnx

    silent = onnx.load(file)
    del silent.metadata_props[:]
    onnx.save(silent, tmp_path / "silent.onnx")
    with pytest.raises(UserError, match="it doesn't say what it is; export it again"):
        exported.load(tmp_path / "silent.onnx")
    (tmp_path / "half.onnx").write_bytes((folder / "m.onnx").read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole ONNX file"):
        exported.load(tmp_path / "half.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match="needs onnxruntime, which is not installed: pip install onnxruntime"):
        maskworks.load(file)


def test_a_file_that_names_another_module_is_refused(tmp_path):
    with pytest.raises(UserError, match="of antigravity; there are solov2, "):
        exported.Exported(tmp_path / "a.onnx", {"package": "antigravity"})
    assert "antigravity" not in sys.modules
    with pytest.raises(UserError, match="of no package"):
        exported.Exported(tmp_path / "a.onnx", {"config": "{}"})


def test_a_photograph_that_does_not_fit_is_made_to(files):
    package, folder = files
    if package in ("solov2", "yolact"):
        pytest.skip("takes any size")
    model = maskworks.load(folder / "m.onnx")
    picture = resize(draw_scene(0, "val", 3).image, 96, 96)
    inputs, resized = model.program.graph_inputs(model.scaling[0], picture, [64, 96])
    assert (tuple(inputs["image"].shape), resized) == ((64, 96, 3), (64, 64))
