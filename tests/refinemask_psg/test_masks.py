"""Masks: boundaries, fusion, targets, losses and pasting; against brute force and pycocotools."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from common.data.batches import Target
from refinemask_psg import config
from refinemask_psg.boundary import boundary, enlarge, foreground, fuse, uncertain_regions
from refinemask_psg.losses import mask_losses, mean_loss, stage_losses
from refinemask_psg.mask_head import MaskAnswers
from refinemask_psg.postprocess import paste
from refinemask_psg.targets import Sampled, foreground_target, mask_targets

seeds = st.integers(0, 2**31 - 1)
SIZES = (14, 28, 56, 112)


def random_masks(seed: int, count: int, size: int) -> torch.Tensor:
    noise = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (size, size), mode="bicubic", align_corners=False) > 0


@settings(max_examples=20)
@given(seeds, st.sampled_from([1, 2]))
def test_the_boundary_is_where_enough_neighbours_differ(seed, width):
    mask = random_masks(seed, 1, 9)
    padded = F.pad(mask[0, 0], (width,) * 4).numpy()  # outside is background
    expected = np.zeros((9, 9), bool)
    for row in range(9):
        for column in range(9):
            window = padded[row : row + 2 * width + 1, column : column + 2 * width + 1]
            differing = (window != mask[0, 0, row, column].item()).sum()
            expected[row, column] = differing / window.size > 0.1
    assert (boundary(mask, width)[0, 0].numpy() == expected).all()


def test_inside_a_mask_the_coarse_stage_counts_and_near_its_boundary_the_fine_one():
    coarse = torch.full((1, 1, 28, 28), -9.0)
    coarse[:, :, 7:21, 7:21] = 9.0
    stages = [torch.zeros(1, 1, 14, 14), coarse, torch.full((1, 1, 56, 56), 3.0), torch.full((1, 1, 112, 112), 5.0)]
    fused = fuse(stages)
    assert fused[0, 0, 56, 56] == pytest.approx(9)  # the middle
    assert fused[0, 0, 0, 0] == pytest.approx(-9)  # far outside
    # the edge lies between the coarse pixels 6 and 7: the third stage counts for 5.5 to 7.5, its pixels 12 to 15;
    # then the edge lies between its pixels 11 and 12: the last stage counts for 10.5 to 12.5, its pixels 22 to 25
    row = fused[0, 0, 56, :56]
    assert (row == 5).nonzero().flatten().tolist() == [22, 23, 24, 25]
    assert (row == 3).nonzero().flatten().tolist() == [26, 27, 28, 29, 30]


def test_enlarging_keeps_corners_on_corners():
    values = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert enlarge(values, 3)[0, 0].tolist() == [[0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3]]


def test_losses_of_the_finer_stages_look_at_the_boundary_only():
    targets = [random_masks(3, 2, size) for size in SIZES]
    right = [20.0 * (target.float() - 0.5) for target in targets]
    far = ~(enlarge(boundary(targets[1], 2).float(), 56) >= 0.5)
    wrong_far_away = [*right[:2], torch.where(far, -right[2], right[2]), right[3]]
    losses = stage_losses(wrong_far_away, targets)
    assert losses[2].item() == pytest.approx(stage_losses(right, targets)[2].item())
    assert stage_losses([-logits for logits in right], targets)[2].item() > 1


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_terms_of_a_batch_are_weighted_sums_of_their_stages(kind):
    torch.manual_seed(0)
    model = config.Model(
        mask_loss_weight=0.5, box_stage_weights=(1.0, 0.5), mask_stage_weights=(0.3, 0.6, 0.7, 1.1),
        mask_semantic_weight=1.7, mask_targets="bitmaps",
    )  # fmt: skip
    targets = [target_of(None, random_masks(seed, 2, 64)[:, 0]) for seed in (1, 2)]
    sampled = [sampled_at([[4.0, 4, 60, 50]], [1]), sampled_at([[0.0, 9, 33, 60], [10, 10, 40, 40]], [0, 1])]
    stages = [torch.randn(3, 1, size, size).to(kind) for size in SIZES]
    foreground_logits = torch.randn(2, 1, 16, 16).to(kind)
    terms = mask_losses(MaskAnswers(stages, foreground_logits), targets, sampled, torch.zeros(3).long(), model)
    crops = [mask_targets(target, each, SIZES, False) for target, each in zip(targets, sampled, strict=True)]
    wanted = [torch.cat((first, second))[:, None] for first, second in zip(*crops, strict=True)]
    logits = [stage.float() for stage in stages]
    costs = [F.binary_cross_entropy_with_logits(*pair, reduction="none") for pair in
             zip(logits, [each.float() for each in wanted], strict=True)]  # fmt: skip
    regions = uncertain_regions(logits, wanted)
    means = [costs[0].mean(), costs[1].mean()]
    means += [cost[region].mean() for cost, region in zip(costs[2:], regions, strict=True)]
    expected = 0.75 * (0.3 * means[0] + 0.6 * means[1] + 0.7 * means[2] + 1.1 * means[3])
    torch.testing.assert_close(terms["mask"], expected, rtol=1e-5, atol=0)
    union = foreground_target(targets, 16, 16)
    semantic = F.binary_cross_entropy_with_logits(foreground_logits.float(), union)
    torch.testing.assert_close(terms["foreground"], 0.75 * 1.7 * semantic, rtol=1e-5, atol=0)

    plain = torch.randn(3, 5, 28, 28).to(kind)
    labels = torch.tensor([4, 0, 2])
    (alone,) = mask_losses(MaskAnswers([plain], None), targets, sampled, labels, model).values()
    crops = [mask_targets(target, each, [28], False)[0] for target, each in zip(targets, sampled, strict=True)]
    chosen = torch.stack([each[label] for each, label in zip(plain.float(), labels, strict=True)])
    torch.testing.assert_close(
        alone, 0.75 * F.binary_cross_entropy_with_logits(chosen, torch.cat(crops).float()), rtol=1e-5, atol=0
    )


def test_the_coarse_losses_are_averages():
    logits, targets = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[True, False]]]])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert mean_loss(logits, targets).item() == pytest.approx(expected)
    assert mean_loss(logits[..., :1], targets[..., :1]).item() == pytest.approx(math.log(2))
    assert mean_loss(logits[:0], targets[:0]).item() == 0


def sampled_at(boxes: list[list[float]], objects: list[int]) -> Sampled:
    tensor = torch.tensor(boxes)
    return Sampled(
        tensor, torch.zeros(len(boxes)).long(), torch.tensor(objects), tensor, torch.zeros(len(boxes)).bool()
    )


def target_of(polygons: list[list[np.ndarray]] | None, masks: torch.Tensor) -> Target:
    count = len(masks)
    return Target(torch.zeros(count, 4), torch.zeros(count).long(), masks, polygons=polygons)


@pytest.mark.parametrize("box", [[8.0, 4.0, 40.0, 68.0], [20.0, 4.0, 20.5, 68.0], [8.0, 20.0, 40.0, 20.25]])
def test_outlines_are_drawn_into_the_box_as_pycocotools_draws_them(box):
    outline = np.array([[10.0, 5.0], [50.0, 20.0], [30.0, 60.0]])
    target = target_of([[outline.astype(np.float32)]], torch.zeros(1, 80, 80, dtype=torch.bool))
    scaled = (outline - box[:2]) * [28 / max(box[2] - box[0], 1), 28 / max(box[3] - box[1], 1)]
    expected = coco.decode(coco.merge(coco.frPyObjects([scaled.reshape(-1).tolist()], 28, 28)))
    (found,) = mask_targets(target, sampled_at([box], [0]), [28], from_polygons=True)
    assert expected.any()
    assert (found[0].numpy() == expected.astype(bool)).all()


def test_an_object_given_as_rle_is_cropped_from_its_mask():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[1, 16:48, 8:40] = True
    outline = np.array([[0.0, 0.0], [8.0, 0.0], [8.0, 8.0], [0.0, 8.0]], np.float32)
    sampled = sampled_at([[0.0, 16.0, 32.0, 48.0], [0.0, 0.0, 16.0, 16.0]], [1, 0])
    (found,) = mask_targets(target_of([[outline], []], masks), sampled, [8], from_polygons=True)
    assert found[0].all(dim=0).tolist() == [False, False, True, True, True, True, True, True]
    assert found[1].sum() == 16


@settings(max_examples=20)
@given(seeds)
def test_a_crop_at_its_own_resolution_is_the_mask(seed):
    mask = random_masks(seed, 1, 14)[:, 0]
    padded = F.pad(mask, (3, 5, 2, 4))
    sampled = sampled_at([[3.0, 2.0, 17.0, 16.0]], [0])
    (found,) = mask_targets(target_of(None, padded), sampled, [14], from_polygons=False)
    assert (found == mask).all()


def test_any_object_counts_as_foreground():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, :8], masks[1, :, 8:] = True, True
    expected = [[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]]
    assert foreground_target([target_of(None, masks)], 4, 4)[0, 0].tolist() == expected


def pasted_over_the_whole_image(masks, boxes, height, width):
    """Every pixel's value, sampled at its centre."""
    x = (torch.arange(width) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack((x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=-1)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5


@settings(max_examples=25)
@given(seeds)
def test_a_mask_pasted_into_a_window_is_the_one_pasted_into_the_image(seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(6, 2, generator=generator) * 60 - 10
    boxes = torch.cat((corners, corners + torch.rand(6, 2, generator=generator) * 40 + 0.1), dim=1)
    masks = torch.rand(6, 28, 28, generator=generator)
    assert torch.equal(
        paste(masks, boxes, (40, 50), config.Inference()), pasted_over_the_whole_image(masks, boxes, 40, 50)
    )


def test_boxes_without_extent_do_no_harm():
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [90.0, 90.0, 99.0, 99.0]])
    assert paste(torch.ones(2, 28, 28), boxes, (20, 20), config.Inference()).shape == (2, 20, 20)
    assert paste(torch.ones(0, 28, 28), boxes[:0], (20, 20), config.Inference()).shape == (0, 20, 20)


def test_a_logit_of_zero_is_foreground():
    assert foreground(torch.zeros(1)).item()
