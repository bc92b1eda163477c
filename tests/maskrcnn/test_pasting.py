"""Masks at the photograph's size against the plain formulations, which compute every pixel of every mask."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn import pasting
from maskrcnn.pasting import paste


def example(seed: int, count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth random masks, and boxes some of which reach far over the image's border."""
    random = np.random.RandomState(seed)
    coarse = torch.from_numpy(random.rand(count, 1, 4, 4)).float()
    soft = F.interpolate(coarse, (28, 28), mode="bicubic")[:, 0].clamp(0, 1)
    corner = random.uniform(-0.3, 0.9, (count, 2)) * [width, height]
    side = random.uniform(0.005, 1.0, (count, 2)) ** 2 * [width, height] * 1.2
    boxes = torch.from_numpy(np.concatenate((corner, corner + side), axis=1)).float()
    seen = (boxes[:, 2:] > 2).all(dim=1)  # torchvision fails on a box that lies outside of the image
    return soft[seen], boxes[seen]


def close_to(soft_pixels: torch.Tensor, threshold: float) -> torch.Tensor:
    """Pixels that rounding may put on either side."""
    return (soft_pixels - threshold).abs() < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_detectrons_masks_are_those_of_the_plain_formulation(seed):
    soft, boxes = example(seed, 20, 90, 120)
    whole = paste_masks_in_image(soft[:, None], boxes, (90, 120))[:, 0]
    masks = paste(soft, boxes, (90, 120), 0.5, "detectron")
    assert masks.any()
    assert ((masks == (whole > 0.5)) | close_to(whole, 0.5)).all()


@pytest.mark.parametrize("seed", range(3))
def test_mmdetections_masks_are_those_of_grid_sampling(seed):
    soft, boxes = example(seed, 20, 90, 120)
    x1, y1, x2, y2 = (values[:, None] for values in boxes.T)
    x = ((torch.arange(120) + 0.5 - x1) / (x2 - x1) * 2 - 1)[:, None, :].expand(-1, 90, -1)
    y = ((torch.arange(90) + 0.5 - y1) / (y2 - y1) * 2 - 1)[:, :, None].expand(-1, -1, 120)
    whole = F.grid_sample(soft[:, None], torch.stack((x, y), dim=3), align_corners=False)[:, 0]
    masks = paste(soft, boxes, (90, 120), 0.5, "mmdetection")
    assert masks.any()
    assert ((masks == (whole >= 0.5)) | close_to(whole, 0.5)).all()


@pytest.mark.parametrize("convention", ["detectron", "mmdetection"])
def test_a_low_threshold_reaches_as_far_as_the_mask_does(convention):
    soft, boxes = torch.ones(1, 28, 28), torch.tensor([[10.0, 10, 20, 20]])
    area = [int(paste(soft, boxes, (40, 40), threshold, convention).sum()) for threshold in (0.5, 0.01)]
    assert area[0] in (100, 144)  # the box; with Detectron grown by its border, in whole pixels
    assert area[1] >= area[0]


@pytest.mark.parametrize("convention", ["detectron", "mmdetection"])
def test_empty_boxes_and_boxes_outside_are_no_error(convention):
    boxes = torch.tensor([[5.0, 5, 5, 5], [-50, -50, -20, -20], [500, 500, 600, 600]])
    masks = paste(torch.ones(3, 28, 28), boxes, (40, 40), 0.5, convention)
    assert not masks[1:].any()
    assert paste(torch.zeros(0, 28, 28), torch.zeros(0, 4), (40, 40), 0.5, convention).shape == (0, 40, 40)


def test_strips_make_no_difference(monkeypatch):
    soft, boxes = example(3, 10, 90, 120)
    whole = paste(soft, boxes, (90, 120), 0.5, "detectron")
    monkeypatch.setattr(pasting, "STRIP", 500)
    assert torch.equal(paste(soft, boxes, (90, 120), 0.5, "detectron"), whole)
