"""Exported files: what they say of themselves, and that they find what PyTorch finds, in other sizes too."""

import json
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from io import StringIO

import cv2
import pytest
import torch

import maskworks
from common.data.images import resize
from common.errors import UserError
from common.results import Instances
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from common.run.settings import Images
from maskworks import exported, openvino_export, quantisation
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


@pytest.fixture(scope="module")
def ir(files):
    """The same for OpenVINO, and what runs it."""
    pytest.importorskip("openvino", reason="pip install openvino for these tests")
    return openvino_export.convert(files[1] / "m.onnx", files[1] / "m.xml")


def test_a_file_says_what_it_is(files):
    package, folder = files
    said = exported.words_in(folder / "m.onnx")
    assert (said["package"], said["variant"], said["version"]) == (package, "shapes", maskworks.__version__)
    assert (said["channels"], int(said["opset"]) >= 18) == ("rgb", True)
    assert (json.loads(said["class_names"]), json.loads(said["category_ids"])) == ([*CLASSES], [*IDS])
    assert json.loads(said["thresholds"])["score_threshold"] == tiny(package).test.score_threshold
    assert json.loads(said["size"]) == (None if package in ("solov2", "yolact") else [SIDE, SIDE])


def test_a_file_of_openvino_says_the_same(files, ir):
    _, folder = files
    said = exported.words_in(folder / "m.xml")
    assert len(said.pop("weights")) == 64
    assert said == exported.words_in(folder / "m.onnx")


@pytest.mark.parametrize("kind", ["onnx", "xml"])
@pytest.mark.parametrize("side", [SIDE, 57, 200])
def test_a_file_finds_what_pytorch_finds(files, side, kind, request):
    _, folder = files
    if kind == "xml":
        request.getfixturevalue("ir")
    picture = resize(draw_scene(0, "val", 3).image, side, side)
    ours = maskworks.load(folder / "m.safetensors", device="cpu").predict(picture)
    theirs = maskworks.load(folder / f"m.{kind}").predict(picture)
    assert len(ours) == len(theirs) > 0
    assert (theirs.size, theirs.category_ids, theirs.names) == ((side, side), IDS, ours.names)
    torch.testing.assert_close(theirs.scores, ours.scores, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(theirs.boxes, ours.boxes, atol=1.0 + 1e-3, rtol=0)  # a pixel that rounding decides
    assert (theirs.masks ^ ours.masks).float().mean() < 1e-3


@pytest.mark.parametrize("exported_as", ["onnx", "xml"])
def test_predict_writes_the_same_files_for_an_exported_one(files, exported_as, tmp_path, monkeypatch, request):
    _, folder = files
    if exported_as == "xml":
        request.getfixturevalue("ir")
    kinds = ("safetensors", exported_as)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", cv2.resize(draw_scene(0, "val", 3).image, (120, 120)))
    for kind in kinds:
        start(
            "predict",
            ["a.png", "--weights", f"{folder}/m.{kind}", "--out", kind, "--threshold", "0", "--device", "cpu"],
        )
    ours, theirs = ({path.name for path in (tmp_path / kind).rglob("*")} for kind in kinds)
    assert ours == theirs >= {"predictions.json", "report.html", "drawings"}
    ours, theirs = (json.loads((tmp_path / kind / "predictions.json").read_text()) for kind in kinds)
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


def test_what_is_wrong_with_a_file_of_openvino_is_a_line(files, ir, tmp_path):
    _, folder = files
    (tmp_path / "m.xml").write_bytes((folder / "m.xml").read_bytes())
    with pytest.raises(UserError, match=r"m\.bin: not there; m\.xml has its weights in it"):
        exported.load(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes((folder / "m.bin").read_bytes()[:-4] + b"else")
    with pytest.raises(UserError, match=r"m\.bin: not the weights that were written with m\.xml"):
        exported.load(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_text("<annotation><object/></annotation>")
    with pytest.raises(UserError, match="it doesn't say what it is"):
        exported.load(tmp_path / "m.xml")
    (tmp_path / "m.xml").write_bytes((folder / "m.xml").read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole file of OpenVINO"):
        exported.load(tmp_path / "m.xml")


def test_eight_bits_are_measured_on_pictures_that_took_no_part(files, ir, tmp_path, monkeypatch, capsys):  # NNCF's 10 s
    pytest.importorskip("nncf", reason="pip install nncf for this test")
    _, folder = files
    for number in range(5):
        cv2.imwrite(f"{tmp_path}/{number}.png", draw_scene(0, "val", number).image)
    for ending in ("xml", "bin"):
        (tmp_path / f"m.{ending}").write_bytes((folder / f"m.{ending}").read_bytes())
    monkeypatch.setattr(quantisation, "DRAWN", 0.0)
    exact = maskworks.load(folder / "m.xml")
    names = [{"id": number, "name": name} for number, name in zip(IDS, CLASSES, strict=True)]
    height, width, _ = draw_scene(0, "val", 0).image.shape
    picture = {"id": 1, "file_name": "0.png", "width": width, "height": height}
    thing = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [8, 8, 50, 50], "area": 2500, "iscrowd": 0}
    thing["segmentation"] = [[8, 8, 58, 8, 58, 58, 8, 58]]
    (tmp_path / "a.json").write_text(json.dumps({"images": [picture], "annotations": [thing], "categories": names}))
    truth = Images([str(tmp_path)], [f"{tmp_path}/a.json"])
    quantisation.quantise(tmp_path / "m.xml", ir.around, str(tmp_path), truth)
    said, rough = capsys.readouterr().out, maskworks.load(tmp_path / "m.xml")
    assert "calibrated with 4 pictures; beside fp32 on 1 others" in said
    assert "segm AP of 1 pictures: fp32 0." in said
    assert exported.words_in(tmp_path / "m.xml")["precision"] == "int8"
    assert (tmp_path / "m.bin").stat().st_size < 0.5 * (folder / "m.bin").stat().st_size
    pair = exact.predict(tmp_path / "0.png"), rough.predict(tmp_path / "0.png")
    assert quantisation.agreement([pair]) in said
    assert 0 < (pair[0].scores - pair[1].scores).abs().max() < 0.1


def test_agreement_is_of_masks_of_one_class():
    masks = torch.zeros(3, 4, 10, dtype=torch.bool)
    masks[0, :, :6], masks[1, :, :4], masks[2, :, 8:] = True, True, True  # the first two: IoU 4 / 6
    ours = Instances(
        torch.tensor([0.9, 0.8, 0.2]), torch.tensor([0, 1, 1]), torch.zeros(3, 4), masks, (4, 10), ("a", "b", "c")
    )
    theirs = replace(ours, masks=masks[[1, 2, 2]])
    assert quantisation.agreement([(ours, theirs)]) == (
        "1 of 2 instances (scores from 0.3) found again at mask IoU 0.5, mean IoU 0.667, 1 more"
    )
    assert quantisation.agreement([(ours, replace(theirs, labels=torch.full((3,), 2)))]).startswith("0 of 2 instances")
    assert "fp32 finds nothing that scores 0.3" in quantisation.agreement([(ours.filter(0.95), theirs)])
