"""Choosing a number format: by what was measured, not by name."""

from types import SimpleNamespace

import pytest
import torch

from common.ops import precision


@pytest.mark.parametrize(("seconds", "expected"), [((1.0, 0.5), "bf16"), ((1.0, 0.9), "fp32"), ((1.0, 3.0), "fp32")])
def test_bf16_is_taken_only_where_it_is_clearly_faster(monkeypatch, seconds, expected):
    measured = dict(zip(("fp32", "bf16"), seconds, strict=True))
    monkeypatch.setattr(precision, "convolution_seconds", lambda device, name: measured[name])
    assert precision.fastest(torch.device("cpu")) == expected


def test_a_device_without_the_format_computes_in_fp32(monkeypatch):
    def measure(device, name):
        if name == "bf16":
            raise RuntimeError("not implemented for 'BFloat16'")
        return 1.0

    monkeypatch.setattr(precision, "convolution_seconds", measure)
    assert precision.fastest(torch.device("cpu")) == "fp32"


def test_the_quickest_of_the_tries_counts(monkeypatch):
    clock = SimpleNamespace(perf_counter=iter([10.0, 15, 20, 21.5, 30, 33]).__next__)
    monkeypatch.setattr(precision, "time", clock)
    assert precision.convolution_seconds(torch.device("cpu"), "fp32", tries=3) == 1.5


def test_this_machine_can_be_measured():
    assert precision.convolution_seconds(torch.device("cpu"), "bf16", tries=1) > 0
    assert precision.fastest(torch.device("cpu")) in precision.DTYPES
