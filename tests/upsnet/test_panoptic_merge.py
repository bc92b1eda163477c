"""The panoptic head and the final merge, against OpenCV and hand-made maps."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data.batches import Prepared
from upsnet.config import Inference as Settings
from upsnet.panoptic_merge import (
    VOID,
    Found,
    box_masks,
    candidates,
    panoptic_logits,
    panoptic_map,
    panoptic_terms,
    paste,
    remove_masks,
)
from upsnet.postprocess import Maps, detect, instances_of, panoptic_of, paste_masks, scale_of, unify

STUFF, THINGS = 3, 2


@given(st.integers(-10, 30), st.integers(-10, 30), st.integers(1, 50), st.integers(1, 50), st.integers(0, 5))
def test_a_map_is_stretched_as_opencv_stretches_it(x, y, width, height, seed):
    values = np.random.RandomState(seed).randn(28, 28).astype(np.float32)
    canvas = np.zeros((120, 120), np.float32)
    canvas[y + 20 : y + 20 + height, x + 20 : x + 20 + width] = cv2.resize(values, (width, height))
    corners = torch.tensor([[x, y, x + width - 1, y + height - 1]]).float()
    torch.testing.assert_close(
        paste(torch.from_numpy(values)[None], corners, 40, 44)[0],
        torch.from_numpy(canvas[20:60, 20:64]),
        atol=1e-5,
        rtol=1e-4,
    )


def test_an_instance_mask_fades_out_over_a_ring_around_its_box():
    logits = torch.full((1, 28, 28), 8.0)
    mask = paste_masks(logits, torch.tensor([[10.0, 10.0, 37.0, 37.0]]), 60, 60)[0]
    ring = np.pad(1 / (1 + np.exp(-logits[0].numpy())), 1)
    expected = np.zeros((60, 60), bool)
    expected[9:38, 9:38] = cv2.resize(ring, (29, 29)) > 0.5  # 23.5 -+ 13.5 * 30 / 28, cut to whole pixels
    assert (mask.numpy() == expected).all()


def test_a_photograph_is_scaled_by_its_short_side_unless_its_long_one_became_too_long():
    published = Settings(long_side=1333, short_side=800)
    assert scale_of((600, 800), published) == scale_of((800, 600), published) == 800 / 600
    assert scale_of((1200, 600), published) == 1333 / 1200
    assert scale_of((600, 1000), published) == 800 / 600  # 1333.3 is not too long


def test_results_are_in_the_photographs_pixels_however_many_they_are():
    test, prepared = Settings(long_side=200, short_side=120), Prepared(torch.zeros(3, 128, 160), (60, 70), (120, 140))
    boxes = torch.tensor([[20.0, 20, 74, 74], [10, 30, 40, 50]]).repeat(9, 1)
    found = Found(boxes, torch.linspace(0.9, 0.1, 18), torch.tensor([1, 2]).repeat(9))
    logits = torch.randn(18, 28, 28)
    result = instances_of(found, logits, prepared, test, ("a", "b"))
    assert result.boxes[:2].tolist() == [[10, 10, 38, 38], [5, 15, 21, 26]]
    assert result.labels.tolist() == [0, 1] * 9
    assert torch.equal(result.scores, found.scores)
    assert torch.equal(result.masks, paste_masks(logits, boxes / 2, 60, 70))


def test_a_mask_is_removed_when_its_own_class_covers_too_much_of_it():
    masks = torch.zeros(5, 10, 10, dtype=torch.bool)
    masks[0, :, :5] = True
    masks[1, :, 3:9] = True  # a third of it is covered by the first
    masks[2, :, 3:9] = True  # the same of another class
    masks[3, :, 4:10] = True  # a sixth, as the second was removed
    assert remove_masks(masks, torch.tensor([1, 1, 2, 1, 1]), 0.3).tolist() == [True, False, True, True, False]


def test_a_mask_covered_by_exactly_the_limit_stays():
    masks = torch.zeros(2, 10, 10, dtype=torch.bool)
    masks[0, :, :5], masks[1, :3] = True, False
    masks[1, :, 2:] = False
    masks[1, 0, :] = True  # ten pixels, of which the first covers five
    assert remove_masks(masks, torch.tensor([1, 1]), 0.5).tolist() == [True, True]
    assert remove_masks(masks, torch.tensor([1, 1]), 0.49).tolist() == [True, False]


def test_a_box_reaches_from_its_cut_corner_to_its_rounded_one():
    inside = box_masks(torch.tensor([[2.9, 1.2, 5.5, 3.4]]), 8, 9)[0].numpy()
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (rows.tolist(), columns.tolist()) == ([1, 2, 3], [2, 3, 4, 5, 6])  # 5.5 rounds to 6, the end is 7


def head(semantic: torch.Tensor, found: Found, masks: torch.Tensor) -> torch.Tensor:
    terms = panoptic_terms(found, masks, semantic, STUFF, 0.3)
    return panoptic_map(panoptic_logits(terms, semantic, STUFF))


def test_pixels_of_a_thing_that_no_instance_claims_are_void():
    semantic = torch.zeros(STUFF + THINGS, 20, 20)
    semantic[0], semantic[STUFF, :, 5:15] = 1.0, 3.0  # stuff 0, and a thing across the middle
    found = Found(torch.tensor([[5.0, 0.0, 14.0, 9.0]]), torch.tensor([0.9]), torch.tensor([1]))
    channels = head(semantic, found, torch.full((1, 28, 28), 1.0))
    assert (channels[:10, 5:15] == STUFF).all()
    assert (channels[10:, 5:15] == VOID).all()
    assert (channels[:, :5] == 0).all()


def test_without_candidates_a_channel_of_zeros_takes_part():
    semantic = torch.full((STUFF + THINGS, 8, 8), -1.0)
    nobody = Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert (head(semantic, nobody, torch.zeros(0, 28, 28)) == STUFF).all()


def test_where_every_candidate_is_removed_the_bests_channel_is_there_without_its_mask():
    semantic = torch.full((STUFF + THINGS, 8, 8), 0.5)
    found = Found(torch.tensor([[1.0, 2, 3, 4], [0, 0, 7, 7]]), torch.tensor([0.9, 0.8]), torch.tensor([2, 1]))
    terms = panoptic_terms(found, torch.full((2, 28, 28), -1.0), semantic, STUFF, 0.3)
    assert terms.kept.tolist() == [0]
    assert not terms.mask.any()
    assert torch.equal(terms.semantic, 0.5 * box_masks(found.boxes[:1], 8, 8))


def test_candidates_suppress_one_another_across_classes():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [30, 30, 39, 39], [50, 30, 59, 39]])[:, None].expand(4, 3, 4)
    scores = torch.tensor([[0.0, 0.7, 0.1], [0.0, 0.1, 0.9], [0.3, 0.6, 0.1], [0.2, 0.8, 0.0]])
    found = candidates(boxes, scores, Settings())
    assert found.labels.tolist() == [2, 1]  # 0.6 is not more than the threshold
    kept = detect(boxes, scores, Settings())
    assert list(zip(kept.labels.tolist(), kept.scores.tolist(), strict=True)) == [
        (2, pytest.approx(0.9)),
        (1, pytest.approx(0.8)),
        (1, pytest.approx(0.7)),
        (1, pytest.approx(0.6)),
        (2, pytest.approx(0.1)),
    ]


def merged(semantic: np.ndarray, channels: np.ndarray, labels: list[int], smallest: int = 0):
    maps = Maps(torch.from_numpy(semantic).long(), torch.from_numpy(channels).long())
    return unify(maps, torch.tensor(labels), STUFF, smallest)


@pytest.mark.parametrize(("stuff_part", "becomes"), [(4, STUFF), (5, 1), (6, 1)])
def test_an_instance_that_is_mostly_stuff_becomes_stuff(stuff_part, becomes):
    semantic = np.full((1, 10), STUFF)
    semantic[0, :stuff_part] = 1
    result = merged(semantic, np.full((1, 10), STUFF), [1])
    assert (result.classes == becomes).all()
    assert (result.numbers == (1 if becomes == STUFF else 0)).all()


def test_an_instance_whose_pixels_look_like_another_thing_keeps_its_class():
    result = merged(np.full((2, 5), STUFF + 1), np.full((2, 5), STUFF), [1])
    assert (result.classes == STUFF).all()


def test_numbers_count_the_instances_that_are_there_even_dropped_ones():
    channels = np.repeat([[STUFF, STUFF + 2, STUFF + 3, 0]], 4, axis=0)  # the second of four has no pixel
    semantic = np.repeat([[1, STUFF, STUFF + 1, 0]], 4, axis=0)
    result = merged(semantic, channels, [1, 1, 1, 2])
    assert result.classes[0].tolist() == [1, STUFF, STUFF + 1, 0]
    assert result.numbers[0].tolist() == [0, 2, 3, 0]


def test_small_stuff_becomes_void_and_small_things_stay():
    channels = np.zeros((10, 10), int)
    channels[0, :3], channels[5, 5] = 1, STUFF
    result = merged(np.where(channels == STUFF, STUFF, channels), channels, [1], smallest=4)
    assert (result.classes[0, :3] == VOID).all()
    assert result.classes[5, 5] == STUFF
    assert result.classes[9, 9] == 0


def test_a_result_names_things_first_and_keeps_void_out():
    channels = np.repeat([[1, STUFF, STUFF, STUFF + 1, VOID]], 4, axis=0)
    result = merged(np.repeat([[1, STUFF, STUFF, STUFF + 1, STUFF]], 4, axis=0), channels, [1, 2])
    names = ("person", "car", "sky", "road", "water")
    prepared = Prepared(torch.zeros(3, 4, 5), (4, 5), (4, 5))
    panoptic = panoptic_of(result, torch.tensor([0.9, 0.7]), torch.from_numpy(channels), STUFF, prepared, names)
    found = {names[info.label]: (info.is_thing, round(info.score, 3)) for info in panoptic.infos}
    assert found == {"road": (False, 1.0), "person": (True, 0.9), "car": (True, 0.7)}
    assert (panoptic.segments[:, 4] == 0).all()
    assert {int(panoptic.segments[0, at]) for at in range(4)} == {info.id for info in panoptic.infos}
