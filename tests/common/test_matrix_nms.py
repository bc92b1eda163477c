"""Matrix NMS against the textbook formulation; the original's outputs are in tests/parity/cases/solov2/ops."""

from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.ops import matrix_nms, matrix_nms_from_intersections

KERNELS: Any = ("gaussian", "linear")


def textbook(masks: Tensor, labels: Tensor, scores: Tensor, kernel: str, sigma: float) -> Tensor:
    """The definition, one pair after the other, in float64."""
    decayed = []
    coverage: list[float] = []
    for j in range(len(scores)):
        overlaps = [float((masks[i] & masks[j]).sum()) / max(float((masks[i] | masks[j]).sum()), 1) for i in range(j)]
        same = [i for i in range(j) if labels[i] == labels[j]]
        coverage.append(max((overlaps[i] for i in same), default=0.0))
        ratios = [1.0]
        for i in same:
            if kernel == "gaussian":
                ratios.append(np.exp(-sigma * overlaps[i] ** 2) / np.exp(-sigma * coverage[i] ** 2))
            elif overlaps[i] == 1:
                ratios.append(0.0)
            elif coverage[i] < 1:
                ratios.append((1 - overlaps[i]) / (1 - coverage[i]))
        decayed.append(float(scores[j]) * min(ratios))
    return torch.tensor(decayed, dtype=torch.float32)


def scene(count: int, height: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random rectangles, among them empty and equal ones."""
    random = np.random.default_rng(seed)
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask in masks:
        top, left = random.integers(0, height), random.integers(0, width)
        mask[top : top + random.integers(0, height), left : left + random.integers(0, width)] = True
    for copy in range(2, count, 5):
        masks[copy] = masks[copy - 1 - random.integers(0, 2)]
    labels = torch.from_numpy(random.integers(0, classes, count))
    return masks, labels, torch.from_numpy(np.sort(random.random(count).astype(np.float32))[::-1].copy())


@settings(max_examples=40)
@given(
    count=st.integers(1, 24),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    classes=st.integers(1, 4),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0, 2**16),
)
def test_equals_the_definition(count: int, height: int, width: int, classes: int, kernel: Any, seed: int) -> None:
    masks, labels, scores = scene(count, height, width, classes, seed)
    expected = textbook(masks, labels, scores, kernel, 2.0)
    torch.testing.assert_close(matrix_nms(masks, labels, scores, kernel), expected, rtol=1e-6, atol=1e-7)


def test_many_classes_are_grouped_without_losing_an_overlap() -> None:
    masks, labels, scores = scene(300, 6, 7, 90, seed=3)
    expected = textbook(masks, labels, scores, "gaussian", 2.0)
    torch.testing.assert_close(matrix_nms(masks, labels, scores), expected, rtol=1e-6, atol=1e-7)


def test_two_thousand_masks() -> None:
    masks, labels, scores = scene(2000, 8, 8, 3, seed=4)
    decayed = matrix_nms(masks, labels, scores, "linear")
    assert decayed.shape == (2000,)
    assert (decayed <= scores).all() and (decayed >= 0).all()


def test_a_copy_of_a_copy_scores_zero_with_the_linear_kernel() -> None:
    masks = torch.ones(3, 2, 2, dtype=torch.bool)
    decayed = matrix_nms(masks, torch.zeros(3, dtype=torch.long), torch.tensor([0.9, 0.8, 0.7]), "linear")
    assert decayed.tolist() == [pytest.approx(0.9), 0.0, 0.0]


def test_areas_stay_exact_where_half_precision_would_not() -> None:
    """Two masks of 90,000 pixels that differ in one."""
    masks = torch.ones(2, 300, 300, dtype=torch.bool)
    masks[1, 0, 0] = False
    decayed = matrix_nms(masks, torch.zeros(2), torch.ones(2), "linear")
    assert decayed[1].item() == pytest.approx(1 / 90000, rel=1e-2)


def test_half_precision_scores_keep_their_type() -> None:
    masks, labels, scores = scene(5, 4, 4, 1, seed=0)
    assert matrix_nms(masks, labels, scores.half()).dtype == torch.float16


def test_pixels_counted_in_half_precision_are_divided_in_full() -> None:
    """The union of two masks of 40,000 pixels does not fit into half precision."""
    counts = torch.full((2, 2), 40000.0, dtype=torch.float16)
    decayed = matrix_nms_from_intersections(counts, counts[0], torch.zeros(2), torch.ones(2))
    assert decayed.tolist() == pytest.approx([1, np.exp(-2)])


def test_half_precision_scores_are_rounded_once() -> None:
    masks, labels, scores = scene(30, 9, 9, 1, seed=5)
    expected = matrix_nms(masks, labels, scores.half().float()).half()
    assert (matrix_nms(masks, labels, scores.half()) == expected).all()


@pytest.mark.parametrize("bytes_first", [True, False])
def test_autocast_changes_no_overlap(bytes_first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the product of bytes, and with that of floats which other processors take."""
    if not bytes_first:
        monkeypatch.setattr("platform.machine", lambda: "arm64")
    masks, labels, scores = scene(40, 33, 47, 1, seed=6)
    expected = textbook(masks, labels, scores, "linear", 2.0)
    with torch.autocast("cpu", torch.bfloat16):
        decayed = matrix_nms(masks, labels, scores, "linear")
    torch.testing.assert_close(decayed, expected, rtol=1e-5, atol=1e-7)


def test_other_kernels_and_shapes_are_refused() -> None:
    masks, labels, scores = scene(3, 4, 4, 1, seed=0)
    with pytest.raises(ValueError, match="expected 'gaussian' or 'linear'"):
        matrix_nms(masks, labels, scores, cast(Any, "hard"))
    with pytest.raises(ValueError, match=r"expected \[N, H, W\], \[N\] and \[N\]"):
        matrix_nms(masks, labels[:2], scores)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_decay_can_be_exported(kernel: Any) -> None:
    class Decay(torch.nn.Module):
        def forward(self, pixels: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
            intersections = pixels @ pixels.T
            return matrix_nms_from_intersections(intersections, pixels.sum(1), labels, scores, kernel)

    masks, labels, scores = scene(12, 8, 8, 2, seed=1)
    inputs = (masks.flatten(1).float(), labels, scores)
    program = torch.export.export(Decay(), inputs)
    torch.testing.assert_close(program.module()(*inputs), matrix_nms(masks, labels, scores, kernel))
