"""From answers to instances: each step against a plain restatement."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from common.data.batches import Prepared
from solov2 import postprocess
from solov2.config import Inference as Settings
from solov2.postprocess import (
    Candidates,
    boxes_around,
    candidates,
    enlarge,
    instances_from_answers,
    largest_parts,
    photograph_masks,
    points_nms,
    select,
    soft_masks_of,
)


def test_points_nms_looks_up_left_and_up_left_only():
    scores = torch.tensor([[[0.5, 0.4, 0.9], [0.6, 0.3, 0.2]]])
    expected = torch.zeros_like(scores)
    for row in range(2):
        for column in range(3):
            window = scores[0, max(0, row - 1) : row + 1, max(0, column - 1) : column + 1]
            expected[0, row, column] = scores[0, row, column] * (scores[0, row, column] == window.max())
    assert torch.equal(points_nms(scores), expected)


def test_boxes_are_tight_and_empty_masks_have_empty_boxes():
    masks = torch.zeros(2, 6, 9, dtype=torch.bool)
    masks[0, 2:4, 3:8] = True
    assert boxes_around(masks).tolist() == [[3, 2, 8, 4], [0, 0, 0, 0]]
    assert boxes_around(masks[:0]).shape == (0, 4)


def enlarged_plainly(soft: torch.Tensor, resized: tuple[int, int], original: tuple[int, int]) -> torch.Tensor:
    """The two resizes as the original does them, on whole maps."""
    size = (4 * soft.shape[1], 4 * soft.shape[2])
    whole = F.interpolate(soft[:, None], size, mode="bilinear", align_corners=False)
    whole = whole[:, :, : resized[0], : resized[1]]
    return F.interpolate(whole, original, mode="bilinear", align_corners=False)[:, 0]


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 31), st.integers(0, 31)),
    st.tuples(st.integers(1, 80), st.integers(1, 80)),
    st.integers(0, 2**31),
)
def test_enlarging_windows_gives_the_masks_of_the_plain_two_step_resize(blocks, cut, original, seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = 8 * blocks[0], 8 * blocks[1]
    # smooth blobs of all extents, some of them empty, some over the whole map
    coarse = torch.rand(6, 1, 3, 4, generator=generator) ** torch.linspace(0.3, 6, 6)[:, None, None, None]
    soft = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)[:, 0].clamp(0, 1)
    resized = max(1, 4 * height - cut[0]), max(1, 4 * width - cut[1])
    plain = enlarged_plainly(soft, resized, original)
    clear = (plain - 0.5).abs() > 1e-5
    assert torch.equal(enlarge(soft, resized, original, 0.5)[clear], (plain > 0.5)[clear])


def test_enlarging_nothing_and_an_empty_mask():
    assert enlarge(torch.zeros(0, 8, 8), (32, 32), (20, 30), 0.5).shape == (0, 20, 30)
    assert not enlarge(torch.full((2, 8, 8), 0.4), (32, 32), (20, 30), 0.5).any()


def one_confident_cell(score: float) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Two classes on a 2 x 2 grid; the first cell's kernel draws the left half of an 8 x 8 mask feature."""
    logits = torch.full((2, 2, 2), -9.0)
    logits[1, 0, 0] = score
    kernels = torch.zeros(1, 2, 2)
    kernels[0, 0, 0] = 10.0
    feature = -torch.ones(1, 8, 8)
    feature[:, :, :4] = 1.0
    return [logits], [kernels], feature


def test_one_confident_cell_becomes_one_instance():
    prepared = Prepared(torch.zeros(3, 32, 32), (64, 64), (32, 32))
    result = instances_from_answers(*one_confident_cell(3.0), prepared, (8,), Settings(), ("a", "b"))
    assert result.labels.tolist() == [1]
    maskness = torch.sigmoid(torch.tensor(10.0))
    torch.testing.assert_close(result.scores, (torch.sigmoid(torch.tensor(3.0)) * maskness)[None])
    assert result.masks is not None
    assert result.masks.shape == (1, 64, 64)
    assert result.masks[0, :, :31].all()
    assert not result.masks[0, :, 33:].any()


def test_nothing_above_the_threshold_is_an_empty_result():
    prepared = Prepared(torch.zeros(3, 32, 32), (20, 30), (32, 32))
    result = instances_from_answers(*one_confident_cell(-8.0), prepared, (8,), Settings(), ("a", "b"))
    assert len(result) == 0
    assert result.masks is not None
    assert result.masks.shape == (0, 20, 30)
    assert result.to_coco(1, (1, 2)) == []


def test_equal_scores_keep_their_order_and_low_ones_go():
    numbers = torch.arange(100)
    found = Candidates(torch.ones(100), numbers, numbers[:, None, None].float(), torch.ones(100, 1, 1).bool())
    decayed = torch.where(numbers % 3 == 0, 0.5, 0.04)
    scores, labels, soft = select(found, decayed, Settings(update_threshold=0.05, max_instances=20))
    assert scores.tolist() == [0.5] * 20
    assert labels.tolist() == soft.flatten().tolist() == list(range(0, 60, 3))


def test_masks_not_larger_than_their_levels_stride_are_dropped_and_equal_ones_keep_their_order():
    _, _, feature = one_confident_cell(0.0)  # 32 of its pixels are a mask
    logits, kernels = ([torch.full((depth, side, side), 3.0) for side in (5, 2, 1)] for depth in (3, 1))
    found = candidates(logits, kernels, feature, (31, 32, 31), Settings())
    assert found.labels.tolist() == [0, 1, 2] * (25 + 1)


def test_the_mask_of_a_confident_cell_is_made_once_whatever_its_categories(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, kernels = ([torch.randn(depth, 5, 5, generator=generator)] for depth in (6, 4))
    feature = torch.randn(4, 8, 8, generator=generator)
    rows = []
    monkeypatch.setattr(postprocess, "BLOCK", 5)
    monkeypatch.setattr(postprocess, "soft_masks_of", lambda *args: rows.append(len(args[0])) or soft_masks_of(*args))
    found = candidates(logits, kernels, feature, (1,), Settings(score_threshold=0.5, max_candidates=1000))
    confident = (points_nms(logits[0].sigmoid()) > 0.5).permute(1, 2, 0).flatten(0, 1)  # [25, 6]
    cells = torch.einsum("kyx,khw->yxhw", kernels[0], feature).sigmoid().flatten(0, 1)  # [25, 8, 8]
    large = (cells > 0.5).sum(dim=(1, 2)) > 1
    assert rows == [confident.any(dim=1).sum()]
    assert len(found.scores) == confident[large].sum() > rows[0]
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    for score, label, soft in zip(found.scores, found.labels, found.soft_masks, strict=True):
        cell = (cells - soft).abs().amax(dim=(1, 2)).argmin()
        torch.testing.assert_close(soft, cells[cell])
        torch.testing.assert_close(score, logits[0].sigmoid()[label].flatten()[cell] * soft[soft > 0.5].mean())
    assert torch.equal(found.masks, found.soft_masks > 0.5)


def test_of_a_mask_in_pieces_the_largest_stays_where_it_is_asked_for() -> None:
    soft = torch.zeros(3, 8, 8)
    soft[0, 1:3, 1:3] = soft[0, 5:7, 3:8] = soft[1, 2, 2] = 1.0  # two pieces, one, and none
    kept = soft.clone()
    kept[0, 1:3, 1:3] = 0.0
    sizes = (32, 32), (40, 24)
    whole = photograph_masks(soft, *sizes, Settings())
    assert torch.equal(whole, enlarge(soft, *sizes, 0.5))
    assert torch.equal(photograph_masks(soft, *sizes, Settings(largest_part=True)), enlarge(kept, *sizes, 0.5))
    touching = torch.eye(4, dtype=torch.bool)[None]  # pixels that touch at their corners are one part
    assert torch.equal(largest_parts(touching), touching)
