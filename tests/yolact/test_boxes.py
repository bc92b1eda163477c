"""Boxes, the three kinds of NMS and the enlarging of masks, each against the obvious way to do it."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import yolact.postprocess
from yolact.boxes import crop, decode, encode, level_sizes, make_priors, priors_per_level, to_pixels
from yolact.config import VARIANTS
from yolact.nms import cross_class_nms, fast_nms, traditional_nms
from yolact.postprocess import enlarge


class Elsewhere(torch.Tensor):
    """Says that it is not on the processor."""

    device = torch.device("meta")


def random_boxes(count: int, seed: int) -> torch.Tensor:
    """Corners as fractions, some of them reaching out of the image."""
    generator = torch.Generator().manual_seed(seed)
    centres, sizes = torch.rand(count, 2, generator=generator), 0.4 * torch.rand(count, 2, generator=generator)
    return torch.cat((centres - sizes, centres + sizes), dim=1)


def random_scores(classes: int, count: int, seed: int) -> torch.Tensor:
    """All different, so that their order is no matter of taste."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randperm(classes * count, generator=generator).view(classes, count) + 1) / (classes * count + 1)


def overlap(a: list[float], b: list[float], extra: float = 0.0) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + extra)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + extra)
    sizes = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    return width * height / (sum(sizes) - width * height)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 60), st.integers(1, 40), st.integers(0, 10**6))
@settings(max_examples=30)
def test_fast_nms_is_what_two_loops_say(count, classes, top_k, limit, seed):
    boxes, scores = random_boxes(count, seed), random_scores(classes, count, seed)
    expected = []
    for label in range(classes):
        order = scores[label].argsort(descending=True)[:top_k].tolist()
        for rank, index in enumerate(order):
            rivals = [overlap(boxes[index].tolist(), boxes[better].tolist()) for better in order[:rank]]
            if all(rival <= 0.3 for rival in rivals):  # also those that are dropped themselves
                expected.append((float(scores[label, index]), label, index))
    expected = sorted(expected, reverse=True)[:limit]
    chosen, labels, kept = fast_nms(boxes, scores, 0.3, top_k, limit)
    assert list(zip(kept.tolist(), labels.tolist(), chosen.tolist(), strict=True)) == expected


@pytest.mark.parametrize(("lowest", "expected"), [(None, [0, 50]), (0.45, [0, 50]), (0.55, [0])])
def test_fast_nms_looks_as_far_down_as_needed(lowest, expected):
    # one class has 50 equal boxes and then, further down than is looked at first, one elsewhere
    boxes = torch.tensor([[0.1, 0.1, 0.2, 0.2]] * 50 + [[0.6, 0.6, 0.9, 0.9]])
    scores = torch.linspace(0.9, 0.5, 51).repeat(2, 1)
    scores[1] -= 0.45
    chosen, labels, _ = fast_nms(boxes, scores, 0.5, 200, 2, lowest)
    assert chosen.tolist() == expected
    assert not labels.any()


@given(st.integers(0, 40), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=40)
def test_traditional_nms_is_greedy_and_counts_the_last_pixel(count, classes, seed):
    boxes, scores = 50 * random_boxes(count, seed).round(decimals=1), random_scores(classes, count, seed)
    expected = []
    for label in range(classes):
        kept: list[int] = []
        for index in scores[label].argsort(descending=True).tolist():
            better = (overlap(boxes[index].tolist(), boxes[other].tolist(), extra=1.0) for other in kept)
            if scores[label, index] > 0.4 and all(rival < 0.5 for rival in better):
                kept.append(index)
        expected += [(float(scores[label, index]), label, index) for index in kept]
    expected = sorted(expected, reverse=True)[:30]
    chosen, labels, found = traditional_nms(boxes, scores, 0.5, 0.4, 30)
    assert list(zip(found.tolist(), labels.tolist(), chosen.tolist(), strict=True)) == expected


def test_traditional_nms_compares_no_boxes_of_two_classes_wherever_they_are():
    boxes, scores = torch.tensor([[-10.0, -10, 8, 8], [32, 32, 50, 50]]), torch.tensor([[0.0, 0.9], [0.8, 0.0]])
    assert traditional_nms(boxes, scores, 0.5, 0.4, 30)[0].tolist() == [1, 0]


def test_cross_class_nms_lets_a_box_of_another_class_win():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.45], [0.6, 0.6, 0.9, 0.9]])
    scores = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.8, 0.4]])
    chosen, labels, found = cross_class_nms(boxes, scores, 0.5, 200)
    assert chosen.tolist() == [0, 2]
    assert labels.tolist() == [0, 1]
    assert found.tolist() == pytest.approx([0.9, 0.4])


def test_nothing_in_nothing_out():
    boxes, scores = torch.zeros(0, 4), torch.zeros(3, 0)
    for kind in (
        fast_nms(boxes, scores, 0.5, 200, 100),
        cross_class_nms(boxes, scores, 0.5, 200),
        traditional_nms(boxes, scores, 0.5, 0.05, 100),
    ):
        assert [len(part) for part in kind] == [0, 0, 0]


def test_decoding_undoes_encoding():
    deltas = encode(torch.tensor([[0.4, 0.3, 0.8, 0.5]]), torch.tensor([[0.5, 0.5, 0.2, 0.2]]))
    torch.testing.assert_close(deltas, torch.tensor([[5.0, -5, 5 * math.log(2), 0]]))  # moved by half a side
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.9, 0.05, 0.05]])
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.0, 0.8, 0.3, 1.0]])
    torch.testing.assert_close(decode(encode(boxes, priors), priors), boxes)


def test_published_priors():
    """The numbers of the published networks: 19,248 priors, of YOLACT++ three times as many."""
    for variant, count in (("resnet50_550", 19248), ("plus_base", 57744)):
        assert len(make_priors(VARIANTS[variant].model)) == sum(priors_per_level(VARIANTS[variant].model)) == count
    assert level_sizes(550) == [69, 35, 18, 9, 5]
    assert VARIANTS["im700"].model.scales == (30.0, 61.0, 122.0, 244.0, 488.0)
    first = make_priors(VARIANTS["resnet50_550"].model)[:3]
    assert first[:, :2].flatten().tolist() == pytest.approx([0.5 / 69] * 6)
    widths = [24 / 550, 24 * 0.5**0.5 / 550, 24 * 2**0.5 / 550]
    assert first[:, 2].tolist() == first[:, 3].tolist() == pytest.approx(widths)  # squares, as published
    rectangles = make_priors(VARIANTS["plus_resnet50_550"].model)[:3]
    assert (rectangles[:, 2] / rectangles[:, 3]).tolist() == pytest.approx([1, 0.5, 2])


@given(st.integers(1, 12), st.tuples(st.integers(1, 70), st.integers(1, 70)), st.integers(4, 40), st.integers(0, 10**6))
@settings(max_examples=30)
def test_masks_enlarged_in_windows_are_those_enlarged_whole(count, size, side, seed):
    generator = torch.Generator().manual_seed(seed)
    boxes = 1.6 * random_boxes(count, seed) - 0.3  # some lie outside, wholly or in part
    boxes[0] = boxes[0, [2, 3, 0, 1]]  # and one is inverted
    soft = crop(torch.rand(count, side, side, generator=generator).round(decimals=1), boxes)
    whole = F.interpolate(soft[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    near = (whole - 0.5).abs() < 1e-6  # there rounding decides
    assert torch.equal(enlarge(soft, boxes, size) | near, (whole > 0.5) | near)
    for at_once in (1, 3 * size[0] * size[1]):  # elsewhere; never less than a mask
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(yolact.postprocess, "AT_ONCE", at_once)
            assert torch.equal(enlarge(soft.as_subclass(Elsewhere), boxes, size), whole > 0.5)


def test_plateaus_at_one_half_are_no_foreground():
    soft = crop(torch.full((1, 138, 138), 0.5), torch.tensor([[0.1, 0.1, 0.8, 0.9]]))
    for size in ((300, 400), (97, 1001), (138, 138), (50, 61)):
        assert not enlarge(soft, torch.tensor([[0.1, 0.1, 0.8, 0.9]]), size).any()


def test_a_box_outside_the_image_ends_up_inverted():
    low, high = to_pixels(torch.tensor([1.1]), torch.tensor([1.3]), 100)
    assert low.item() > high.item() == 100
    masks = crop(torch.ones(1, 10, 10), torch.tensor([[1.3, 0.0, 1.5, 1.0]]))
    assert not np.any(masks.numpy())


def test_boxes_without_bounds_cut_masks_as_comparisons_would():
    everywhere, beyond = (-math.inf, 0.1, math.inf, 0.9), (1e30, 0.1, math.inf, 0.9)
    boxes = torch.tensor([everywhere, beyond, (0.1, -1e30, 0.9, 1e30), (math.nan, 0.1, 0.5, 0.9)])
    soft = crop(torch.ones(4, 7, 9), boxes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks = enlarge(soft, boxes, (20, 30))
    assert torch.equal(masks, F.interpolate(soft[None], (20, 30), mode="bilinear", align_corners=False)[0] > 0.5)
    assert masks.any(dim=(1, 2)).tolist() == [True, False, True, False]
