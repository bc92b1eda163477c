"""Features read at places that a network says, without a crash at no number; number formats chosen by measuring."""

from types import SimpleNamespace

import pytest
import torch
import torchvision.ops

from common.ops import precision
from common.ops.guarded_sampling import deform_conv2d, roi_align
from maskworks.prediction import number_format
from tests.running import python, run
from tests.small import flags

AT_NOTHING = """
import torch
from common.ops.guarded_sampling import deform_conv2d, roi_align
for side in (8, 64, 256):
    maps, nothing = torch.ones(1, 16, side, side), torch.full((1, 18, side, side), float("nan"))
    deform_conv2d(maps, nothing, torch.ones(16, 16, 3, 3), None, 1, 1)
    roi_align(maps, torch.full((100, 5), float("nan")), 7, 0.25, 2, False)
"""


def test_at_numbers_both_are_torchvisions():
    torch.manual_seed(0)
    maps, weight = torch.randn(2, 4, 9, 11), torch.randn(6, 4, 3, 3)
    offsets, mask = 2 * torch.randn(2, 18, 9, 11), torch.rand(2, 9, 9, 11)
    theirs = torchvision.ops.deform_conv2d(maps, offsets, weight, None, 1, 1, mask=mask)
    assert torch.equal(deform_conv2d(maps, offsets, weight, None, 1, 1, mask), theirs)
    regions = torch.tensor([[0, 1.5, 2, 8, 7.25], [1, -3, 0, 20, 5]])
    theirs = torchvision.ops.roi_align(maps, regions, 7, 0.5, 2, True)
    assert torch.equal(roi_align(maps, regions, 7, 0.5, 2, True), theirs)


def test_at_what_is_no_number_the_process_lives_on(tmp_path):
    (tmp_path / "at_nothing.py").write_text(AT_NOTHING)
    python(tmp_path / "at_nothing.py", cwd=tmp_path)


@pytest.mark.parametrize("name", ["upsnet", "maskrcnn", "refinemask"])
def test_a_training_that_diverges_ends_with_a_line_that_says_so(name, tmp_path):
    package = "refinemask_psg" if name == "refinemask" else name
    wild = ["--optimizer.lr", "1e20", "--optimizer.clip", "0", "--schedule.warmup", "0", "--steps", "4"]
    more = ["--batch-size", "2", "--workers", "0", "--evaluate-every", "0", "--device", "cpu"]
    done = run(f"{package}/train.py", *flags(name, tmp_path), *more, *wild, cwd=tmp_path, status=2)
    assert "error: the loss is not finite" in done.stderr


# --- number formats


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 0.5), "bf16"), ((1.0, 0.9), "fp32"), ((1.0, 3.0), "fp32")])
def test_bf16_is_taken_only_where_it_is_clearly_faster(monkeypatch, seconds, expected):
    measured = dict(zip(("fp32", "bf16"), seconds, strict=True))
    monkeypatch.setattr(number_format, "convolution_seconds", lambda device, name: measured[name])
    assert number_format.fastest(torch.device("cpu")) == expected


def test_a_device_without_the_format_computes_in_fp32(monkeypatch):
    def measure(device, name):
        if name == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    monkeypatch.setattr(number_format, "convolution_seconds", measure)
    assert number_format.fastest(torch.device("cpu")) == "fp32"


def test_the_quickest_of_the_tries_counts(monkeypatch):
    clock = SimpleNamespace(perf_counter=iter([10.0, 15, 20, 21.5, 30, 33]).__next__)
    monkeypatch.setattr(number_format, "time", clock)
    assert number_format.convolution_seconds(torch.device("cpu"), "fp32", tries=3) == 1.5


def test_this_machine_can_be_measured():
    assert number_format.convolution_seconds(torch.device("cpu"), "bf16", tries=1) > 0
    assert number_format.fastest(torch.device("cpu")) in precision.DTYPES
