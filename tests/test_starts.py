"""Every training that a README names starts from the weights it names, and so does every published variant.

The files are made up, their tensors on the meta device: names and shapes decide whether a training can start.
"""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

import maskrcnn.weights
from common.run.checkpoint import load_weights
from maskworks.command_line.variants import configure
from maskworks.packages import NETWORKS
from maskworks.published import starting_weights
from maskworks.published.coco_classes import COCO_CLASSES
from maskworks.published.formats import read_checkpoint_or_published
from refinemask_psg.u2net import VARIANTS as U2NET_VARIANTS
from refinemask_psg.u2net import U2Net
from tests.test_readme import COMMANDS
from upsnet.classes import CITYSCAPES, COCO

State = dict[str, Tensor]
GET_MODEL = torchvision.models.get_model
OWN = tuple(f"own {number}" for number in range(3))  # the reader's classes
CLASSES = {
    "upsnet": tuple(COCO),
    "resnet101_cityscapes": tuple(CITYSCAPES),
    "pose2seg": ("person",),
    "psg": tuple(COCO),
    "psg_pairs": tuple(COCO),
}
# package, variant: what training starts from. Files of ours: the variant that they hold
STARTS = [
    ("solov2", "light_r18_448", "resnet18.pth"),
    ("solov2", "light_r18_448", "torchvision:resnet18"),
    ("solov2", "r50_1x", "FILE"),
    ("solov2", "r50_3x", "torchvision:resnet50"),
    ("solov2", "r101_3x", "torchvision:resnet101"),
    ("solov2", "light_r50_448", "light_r50_448.safetensors"),
    ("yolact", "resnet50_550", "torchvision:resnet50"),
    ("yolact", "resnet50_pascal", "resnet50.pth"),
    ("yolact", "base", "resnet101_reducedfc.pth"),
    ("yolact", "im700", "resnet101_reducedfc.pth"),
    ("yolact", "darknet53_550", "darknet53.pth"),
    ("yolact", "plus_base", "resnet101_reducedfc.pth"),
    ("yolact", "plus_resnet50_550", "resnet50.pth"),
    ("yolact", "plus_resnet50_550", "plus_resnet50_550.safetensors"),
    ("maskrcnn", "r50_fpn_1x", "R-50.pkl"),
    ("maskrcnn", "r50_fpn_1x", "r50_fpn_1x.safetensors"),
    ("maskrcnn", "r50_c4_1x", "R-50.pkl"),
    ("maskrcnn", "r101_fpn_1x", "R-101.pkl"),
    ("maskrcnn", "x101_32x8d_fpn_1x", "X-101-32x8d.pkl"),
    ("maskrcnn", "mmdet_r50_caffe_fpn", "resnet-50-caffe.pth"),
    ("maskrcnn", "mmdet_r50_caffe_c4", "R-50.pkl"),
    ("maskrcnn", "mmdet_r50_fpn", "torchvision:resnet50"),
    ("maskrcnn", "torchvision_r50_fpn", "torchvision:resnet50"),
    ("maskrcnn", "detectron2_r50_fpn", "detectron2_r50_fpn.safetensors"),
    ("refinemask_psg", "refinemask_r50_1x", "resnet50.pth"),
    ("refinemask_psg", "refinemask_r50_1x", "refinemask_r50_1x.safetensors"),
    ("refinemask_psg", "refinemask_r101_2x", "resnet101.pth"),
    ("refinemask_psg", "mask_rcnn_cbv2_swin_tiny", "swin_tiny_patch4_window7_224.pth"),
    ("refinemask_psg", "refine_cbv2_swin_tiny_mask_rcnn", "mask_rcnn_cbv2_swin_tiny.safetensors"),
    ("refinemask_psg", "refine_cbv2_swin_tiny_cascade_last", "mask_rcnn_cbv2_swin_tiny.safetensors"),
    ("refinemask_psg", "mmdet_mask_rcnn_swin_tiny", "swin_tiny_patch4_window7_224.pth"),
    ("refinemask_psg", "mmdet_cascade_mask_rcnn_r50_1x", "torchvision:resnet50"),
    ("refinemask_psg", "psg", "refine_cbv2_swin_tiny_cascade_last.safetensors"),
    ("refinemask_psg", "psg", "psg.safetensors"),
    ("refinemask_psg", "psg_pairs", "refine_cbv2_swin_tiny_cascade_last.safetensors"),
    ("upsnet", "resnet50_coco", "resnet-50-caffe.pth"),
    ("upsnet", "resnet101_dcn_coco", "resnet-101-caffe.pth"),
    ("upsnet", "resnet50_cityscapes", "resnet-50-caffe.pth"),
    ("upsnet", "resnet101_cityscapes", "resnet101_coco.safetensors"),
    ("upsnet", "efficientnet_b0_coco", "torchvision:efficientnet_b0"),
    ("glip", "glip_tiny", "glip_tiny.safetensors"),
    ("glip", "glip_tiny", "torchvision:swin_t"),
    ("pose2seg", "coco_occ", "resnet50.pth"),
    ("pose2seg", "coco_occ", "torchvision:resnet50"),
    ("pose2seg", "coco_occ", "coco_occ.safetensors"),
]
SAME = {  # a page's name for a file -> the one above
    "maskrcnn:detectron2_r50_fpn_3x": "detectron2_r50_fpn.safetensors",
    "light_r50.safetensors": "light_r50_448.safetensors",
    "yolact_plus_resnet50.safetensors": "plus_resnet50_550.safetensors",
    "r50_fpn.safetensors": "r50_fpn_1x.safetensors",
    "refinemask_r50.safetensors": "refinemask_r50_1x.safetensors",
    "refine_cascade.safetensors": "refine_cbv2_swin_tiny_cascade_last.safetensors",
    "detector.safetensors": "psg.safetensors",
    "pose2seg.safetensors": "coco_occ.safetensors",
}


def trainings() -> list[tuple[str, str, str]]:
    """Package, variant and weights of every training in the READMEs that starts from weights."""
    found = []
    for command in COMMANDS:
        line = " ".join(command.words)
        train = re.search(r"(?:(\w+)\.train|\btrain\.py|slurm_8gpu\.sh (\w+)) (\w+) .*--weights (\S+)", line)
        if train and train[4] != "..." and not train[4].startswith("runs/"):  # of one's own: as VARIANT.safetensors
            package = train[1] or train[2] or command.folder.name
            found.append((package, train[3], SAME.get(train[4], train[4])))
    return found


def test_the_readmes_trainings_are_all_tried() -> None:
    assert len(trainings()) > 15
    assert set(trainings()) <= {*STARTS, ("u2net", "u2netp", "u2netp.pth")}


def test_u2nets_training_starts_from_its_published_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    published = U2Net(small=True).state_dict()
    torch.save(published, tmp_path / "u2netp.pth")
    config = U2NET_VARIANTS["u2netp"]
    model = U2Net(config.model.small, config)
    load_weights(model, read_checkpoint_or_published(tmp_path / "u2netp.pth")[0], "u2netp.pth")  # as train.py does
    assert torch.equal(model.state_dict()["side1.weight"], published["side1.weight"])


@cache
def model_of(package: str, variant: str, names: tuple[str, ...]) -> Any:
    config = configure(import_module(package).VARIANTS, [variant], prog="train.py")
    if config.variant in ("psg", "psg_pairs"):
        config.model.semantic_weights = "u2net.pth"
    if package == "upsnet":
        config.model.things = 8 if names == tuple(CITYSCAPES) else 80
    with torch.device("meta"):
        return getattr(import_module(package), NETWORKS[package])(config, names)


def classes_of(package: str, variant: str) -> tuple[str, ...]:
    return CLASSES.get(variant, CLASSES.get(package, COCO_CLASSES))


@cache
def made_up(package: str, source: str) -> tuple[State, tuple[str, ...]]:
    """What the file holds, and its classes if it says them."""
    if source == "FILE":
        source = "r50_1x.safetensors"
    if source == "resnet101_coco.safetensors":
        config = deepcopy(import_module("upsnet").VARIANTS["resnet101_cityscapes"])
        config.model.things = 80  # of COCO, in Cityscapes' network, as published for this
        with torch.device("meta"):
            return import_module("upsnet").UPSNet(config, tuple(COCO)).state_dict(), tuple(COCO)
    if source.endswith(".safetensors"):
        variant = source.removesuffix(".safetensors")
        names = classes_of(package, variant)
        return model_of(package, variant, names).state_dict(), names
    with torch.device("meta"):
        return classifier(source), ()


def u2net() -> State:
    with torch.device("meta"):
        return dict(U2Net(small=False).state_dict())


def classifier(source: str) -> State:
    """An ImageNet classifier under its publisher's names."""
    name = source.removesuffix(".pth").removeprefix("torchvision:")
    if name == "darknet53":
        darknet = import_module("yolact.backbone").Darknet53().state_dict()
        return {re.sub(r"^stem", "_preconv", re.sub(r"^stages", "layers", key)): darknet[key] for key in darknet}
    if name.startswith("swin_tiny"):
        swin = import_module("refinemask_psg.swin").Swin(0.0, False, True, False).state_dict()
        body = {key: value for key, value in swin.items() if not key.startswith("norm")}
        return body | {"norm.weight": torch.zeros(768), "head.weight": torch.zeros(1000, 768)}
    layers = {"R-50.pkl": "resnet50", "R-101.pkl": "resnet101", "X-101-32x8d.pkl": "resnext101_32x8d"}
    wanted = layers.get(name, re.sub(r"resnet-?(\d+)(-caffe|_reducedfc)?", r"resnet\1", name))
    state = dict(GET_MODEL(wanted, weights=None).state_dict())
    if not name.startswith(("resnet", "R-", "X-")):
        return state
    if name in layers:
        state = caffe2(state)
    elif name.endswith("_reducedfc"):
        state = {re.sub(r"layer(\d)", lambda m: f"layers.{int(m[1]) - 1}", key): state[key] for key in state}
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    return answering(state, 0.004 if "caffe" in name or name in layers else 0.2)


def caffe2(state: Mapping[str, Tensor]) -> State:
    """torchvision's names -> Caffe2's blobs, batch norms merged."""
    blobs = {"conv1_b": torch.zeros(64), "fc1000_w": state["fc.weight"], "fc1000_b": state["fc.bias"]}
    for name, value in state.items():
        part = re.fullmatch(r"(?:layer(\d)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(weight|bias)", name)
        if part is None:
            continue
        stage, block, kind, number, last = part.groups()
        norm = kind == "bn" or (kind == "downsample." and number == "1")
        ending = ("bn_s" if last == "weight" else "bn_b") if norm else "w"
        if stage is None:
            blobs[f"res_conv1_{ending}" if norm else "conv1_w"] = value
        else:
            branch = "1" if kind == "downsample." else "2" + "abc"[int(number) - 1]
            blobs[f"res{int(stage) + 1}_{block}_branch{branch}_{ending}"] = value
    return blobs


def answering(state: State, strength: float) -> State:
    """A real first layer that answers a step of 1 so strongly."""
    shape = next(value.shape for name, value in state.items() if name in ("conv1.weight", "conv1_w"))
    filters = torch.randn(shape, device="cpu")
    real = {"conv1.weight": filters / filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * strength}
    real |= {"bn1.weight": torch.ones(64, device="cpu"), "bn1.running_var": torch.ones(64, device="cpu")}
    real |= {"conv1_w": real["conv1.weight"], "res_conv1_bn_s": real["bn1.weight"]}
    return state | {name: value for name, value in real.items() if name in state}


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], tuple[Any, State]]:
    """Make a model and let it start from a made-up file; answers both."""

    def run(package: str, variant: str, source: str) -> tuple[Any, State]:
        content, names = made_up(package, source)
        read = {
            "read_checkpoint_or_published": lambda _: (content, names),
            "read_published": lambda _: (u2net(), {}),
            "local_file": Path,
        }
        weights = import_module(f"{package}.weights")
        for module in (starting_weights, weights):
            for name in read.keys() & vars(module).keys():
                monkeypatch.setattr(module, name, read[name])
        model = model_of(package, variant, names if source.startswith(variant) else classes_of(package, variant))
        weights.initialise(model, source)
        return model, content

    return run


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(("package", "variant", "source"), STARTS)
def test_a_training_starts_from_what_is_published(
    package: str, variant: str, source: str, start: Any, capsys: Any
) -> None:
    start(package, variant, source)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(
    ("package", "variant", "source"),
    [
        ("maskrcnn", "r50_fpn_1x", "torchvision:resnet50"),
        ("maskrcnn", "r50_c4_1x", "resnet50.pth"),
        ("maskrcnn", "mmdet_r50_fpn", "R-50.pkl"),
        ("maskrcnn", "torchvision_r50_fpn", "resnet-50-caffe.pth"),
        ("upsnet", "resnet50_coco", "torchvision:resnet50"),
        ("upsnet", "resnet101_cityscapes", "resnet101.pth"),
        ("solov2", "r50_1x", "resnet-50-caffe.pth"),
        ("yolact", "resnet50_550", "resnet-50-caffe.pth"),
        ("refinemask_psg", "refinemask_r50_1x", "resnet-50-caffe.pth"),
        ("pose2seg", "coco_occ", "resnet-50-caffe.pth"),
    ],
)
def test_a_backbone_of_the_other_kind_is_told_in_one_line(
    package: str, variant: str, source: str, start: Any, capsys: Any
) -> None:
    start(package, variant, source)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.match(
        rf"warning: {source} is a backbone of (Caffe's kind|torchvision's) .*, and this variant feeds", lines[0]
    )


@pytest.mark.filterwarnings("ignore:.*meta")
def test_caffe2s_blobs_come_to_the_layers_they_are_of(start: Any) -> None:
    model, blobs = start("maskrcnn", "r50_fpn_1x", "R-50.pkl")
    body = maskrcnn.weights.backbone(blobs, c4=False, known=set())
    assert body["backbone.conv1.weight"] is blobs["conv1_w"]
    assert body["backbone.bn1.weight"] is blobs["res_conv1_bn_s"]
    assert body["backbone.bn1.running_var"].tolist() == [1.0] * 64
    assert body["backbone.layer3.5.conv2.weight"] is blobs["res4_5_branch2b_w"]
    assert body["backbone.layer4.0.downsample.1.bias"] is blobs["res5_0_branch1_bn_b"]
    whole = {name for name in model.state_dict() if name.startswith("backbone.")}
    assert whole == body.keys()
    assert (
        maskrcnn.weights.backbone(blobs | {"cls_score_w": torch.zeros(1), "bbox_pred_w": torch.zeros(1)}, False, set())
        is None
    )
