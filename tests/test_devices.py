"""Every package on a device other than the processor, and on fewer digits than float32's."""

import importlib
import json
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import glip.boxes
import maskrcnn.boxes
import maskrcnn.pasting
import pose2seg.geometry
import refinemask_psg.boxes
import solov2.postprocess
import upsnet.boxes
import upsnet.panoptic_merge
import yolact.boxes
import yolact.postprocess
from common.ops import matrix_nms
from tests.accelerator import SUPPORTED
from tests.running import call, python
from tests.small import SMALL, flags, package_of

SIDES = shlex.split("--augment.long-side 96 --augment.short-sides 96 --test.long-side 96 --test.short-side 96")
SIZED = dict.fromkeys(("solov2", "maskrcnn", "upsnet", "refinemask", "glip"), SIDES)  # the others are small already
SHORT = ["--steps", "1", "--limit", "2", "--batch-size", "2", "--workers", "0", "--no-report"]


def short(name: str, folder: Path) -> list[str]:
    """Flags of a training of one step and an evaluation."""
    return [*flags(name, folder / "data"), *SIZED.get(name, ()), *SHORT]


needs_pretending = pytest.mark.skipif(not SUPPORTED, reason="this PyTorch cannot pretend a device")


@needs_pretending
@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_left_on_the_processor(name: str, tmp_path: Path) -> None:
    """One step of training and an evaluation."""
    command = [f"{package_of(name)}.train", *short(name, tmp_path), "--run", tmp_path]
    python("-m", "tests.accelerator", *command, cwd=tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())


@needs_pretending
def test_the_pretended_device_refuses_what_a_gpu_does(tmp_path: Path) -> None:
    program = """
import torch
from tests.accelerator import accelerator
with accelerator() as device:
    x, y = torch.ones(2, device=device), torch.ones(2)
    assert x.device == device and (x + y.to(device) + torch.tensor(1.0)).tolist() == [3, 3]
    for fault in ("x + y", "y[x.long()]", "x.numpy()", "torch.cat([x, y])", "x.double()"):
        try:
            eval(fault)
        except (RuntimeError, TypeError):
            continue
        print(fault)
    print("done")
"""
    (tmp_path / "program.py").write_text(program)
    done = python(tmp_path / "program.py", cwd=tmp_path)
    assert done.stdout == "done\n", done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("name", SMALL)
def test_training_and_evaluation_run_in_half_the_digits(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_probabilities = torch.nn.functional.binary_cross_entropy

    def refused_by_gpus(*arguments: Any, **named: Any) -> Tensor:
        assert not torch.is_autocast_enabled("cpu"), "a GPU's autocast refuses cross-entropy of probabilities"
        return of_probabilities(*arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "binary_cross_entropy", refused_by_gpus)
    call(f"{package_of(name)}.train", *short(name, tmp_path), "--precision", "bf16", "--run", tmp_path)
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert math.isfinite(line["loss"])
    assert json.loads((tmp_path / "metrics.json").read_text())


def exact() -> dict[str, Callable[[], Tensor]]:
    """What is to be the same to the last digit, whatever the network around it runs on."""
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(4, 28, 28, generator=generator)
    boxes = torch.tensor([[3.3, 5.1, 60.7, 90.2], [0, 0, 9, 9], [-20, 40, 30, 130], [50.5, 60.5, 55, 99]])
    masks, labels = torch.rand(30, 112, 168, generator=generator) > 0.3, torch.zeros(30, dtype=torch.long)
    scores = torch.linspace(1, 0.1, 30)
    size, test = (120, 100), solov2.VARIANTS["shapes"].test
    turn = torch.tensor([10.0, -37.0]), torch.tensor([0.9, 1.1]), torch.tensor([[0.01, 0.02], [0.1, 0.0]])
    return {
        "matrix nms": lambda: matrix_nms(masks, labels, scores, "linear"),
        "solov2": lambda: solov2.postprocess.enlarge(soft, (112, 100), size, test.mask_threshold),
        "yolact": lambda: yolact.postprocess.enlarge_windows(soft, boxes / 130, size),
        "maskrcnn": lambda: maskrcnn.pasting.paste(soft, boxes, size, 0.5, "detectron"),
        "maskrcnn of mmdetection": lambda: maskrcnn.pasting.paste(soft, boxes, size, 0.5, "mmdetection"),
        "upsnet": lambda: upsnet.panoptic_merge.paste(soft, boxes.long(), *size),
        "pose2seg": lambda: pose2seg.geometry.similarity_matrices((480, 640), 512, *turn),
    }


@pytest.mark.parametrize("name", exact())
def test_counts_coordinates_and_resizing_keep_all_digits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")  # where matrix NMS counts in floating point
    expected = exact()[name]()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact()[name](), expected)


def test_boxes_are_decoded_in_the_digits_of_their_anchors() -> None:
    anchors, deltas = torch.tensor([[100.0, 200.0, 1100.0, 900.0]]), torch.tensor([[0.1, -0.3, 0.7, 0.2]]).bfloat16()
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda deltas: yolact.boxes.decode(deltas, anchors),
        lambda deltas: maskrcnn.boxes.decode(deltas, anchors, (10, 10, 5, 5), inclusive=True, both_ways=False),
        lambda deltas: refinemask_psg.boxes.decode(anchors, deltas, (0.1, 0.1, 0.2, 0.2)),
        lambda deltas: upsnet.boxes.decode(deltas, anchors),
        lambda deltas: glip.boxes.decode(deltas, anchors),
    ]
    for decode in ways:
        assert torch.equal(decode(deltas), decode(deltas.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("package", ["solov2", "yolact", "upsnet"])
def test_deformable_convolutions_place_their_samples_in_all_digits(package: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(4, 6, 3, padding=1)
    backbone = importlib.import_module(f"{package}.backbone")
    layer = backbone.DeformableConv2d(plain, True) if package == "solov2" else backbone.DeformableConv2d(4, 6, 1)
    torch.nn.init.normal_(layer.offset.bias, std=2)
    torch.nn.init.normal_(layer.weight, std=0.3)
    features = torch.randn(2, 4, 9, 11).to(dtype)
    with torch.autocast("cpu", dtype):
        found = layer(features)
    torch.testing.assert_close(found, layer(features.float()).to(dtype), rtol=0.05, atol=0.05)
