"""Grid targets against a plain restatement of the rule, one instance and cell at a time."""

import math

import numpy as np
import pytest
import torch
from torchvision import tv_tensors

from common.data.batches import Target
from solov2.augmentation import training_transforms
from solov2.config import Augment
from solov2.targets import assign, moments

GRIDS = (10, 8, 5)
RANGES = ((1.0, 20.0), (12.0, 40.0), (30.0, 200.0))


def random_target(seed: int, count: int, height: int, width: int) -> Target:
    random = np.random.RandomState(seed)
    masks = np.zeros((count, height, width), bool)
    boxes = np.zeros((count, 4), np.float32)
    for i in range(count):
        h, w = random.randint(1, height // 2), random.randint(1, width // 2)
        y, x = random.randint(0, height - h), random.randint(0, width - w)
        if i % 3 == 0:  # all its weight in one corner of its box, which lies in that corner of the image
            y, x = (height - h, width - w) if i % 2 else (0, 0)
            masks[i, y + (h - 1) * (i % 2), x + (w - 1) * (i % 2)] = True
        else:
            masks[i, y : y + h, x : x + w] = random.random_sample((h, w)) < 0.7
        boxes[i] = x, y, x + w, y + h
    labels = torch.from_numpy(random.randint(0, 4, count))
    return Target(torch.from_numpy(boxes), labels, torch.from_numpy(masks))


def expected(target: Target, grid: int, smallest: float, largest: float, classes: int):
    height, width = target.masks.shape[1:]
    categories = np.full((grid, grid), classes)
    pairs = []
    for i, (box, label, mask) in enumerate(
        zip(target.boxes.tolist(), target.labels, target.masks.numpy(), strict=True)
    ):
        w, h = box[2] - box[0], box[3] - box[1]
        if not smallest <= math.sqrt(w * h) <= largest or not mask.any():
            continue
        ys, xs = mask.nonzero()
        area, centre_y, centre_x = len(ys), ys.mean(), xs.mean()
        row, column = int(ys.sum()) * grid // (area * height), int(xs.sum()) * grid // (area * width)
        top = max(0, math.floor((centre_y - 0.1 * h) * grid / height), row - 1)
        bottom = min(grid - 1, math.floor((centre_y + 0.1 * h) * grid / height), row + 1)
        left = max(0, math.floor((centre_x - 0.1 * w) * grid / width), column - 1)
        right = min(grid - 1, math.floor((centre_x + 0.1 * w) * grid / width), column + 1)
        for r in range(top, bottom + 1):
            for c in range(left, right + 1):
                categories[r, c] = label
                pairs.append((r * grid + c, i))
    return categories, pairs


@pytest.mark.parametrize("seed", range(8))
def test_targets_agree_with_the_rule_stated_cell_by_cell(seed):
    target = random_target(seed, 9, 64, 96)
    levels = assign(target, GRIDS, RANGES, 0.2, classes=4)
    for level, grid, limits in zip(levels, GRIDS, RANGES, strict=True):
        categories, pairs = expected(target, grid, *limits, 4)
        assert (level.categories.numpy() == categories).all()
        assert list(zip(level.cells.tolist(), level.instances.tolist(), strict=True)) == pairs


def test_an_image_without_objects_is_all_background():
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 32, 32, dtype=torch.bool))
    for level in assign(target, GRIDS, RANGES, 0.2, classes=7):
        assert (level.categories == 7).all()
        assert len(level.cells) == len(level.instances) == 0


def test_an_instance_with_an_empty_mask_is_skipped():
    target = random_target(0, 1, 64, 64)
    target.masks[:] = False
    assert all(len(level.cells) == 0 for level in assign(target, GRIDS, RANGES, 0.2, classes=4))


def test_where_two_instances_claim_a_cell_the_later_names_the_category_and_both_keep_their_pair():
    masks = torch.zeros(2, 40, 40, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    target = Target(torch.tensor([[10.0, 10, 30, 30]] * 2), torch.tensor([1, 0]), masks)
    (level,) = assign(target, (4,), ((1.0, 100.0),), 0.2, classes=2)
    cells = level.cells[level.instances == 0]
    assert len(cells) > 0
    assert torch.equal(cells, level.cells[level.instances == 1])
    assert (level.categories.flatten()[cells] == 0).all()


def test_a_centre_exactly_on_a_border_belongs_to_the_cell_after_it():
    # 40 * 40 / 320 = 5: float32 division by 1/40 would floor to 4
    masks = torch.zeros(1, 320, 320, dtype=torch.bool)
    masks[0, 30:51, 30:51] = True  # centre of mass 40
    target = Target(torch.tensor([[30.0, 30, 31, 31]]), torch.tensor([0]), masks)
    (level,) = assign(target, (40,), ((0.5, 100.0),), 0.2, classes=1)
    assert 5 * 40 + 5 in level.cells.tolist()
    assert 4 * 40 + 4 in level.cells.tolist()  # the middle reaches 0.1 to both sides
    assert len(level.cells) == 4


def test_moments_divide_to_the_centre_of_mass():
    masks = torch.zeros(1, 5, 7, dtype=torch.bool)
    masks[0, 1, 2] = masks[0, 3, 6] = True
    assert [value.item() for value in moments(masks)] == [8, 4, 2]


def test_training_measures_boxes_to_their_last_pixel_as_the_original_does():
    image = tv_tensors.Image(torch.zeros(3, 32, 32, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[4.0, 8, 12, 20]]), format="XYXY", canvas_size=(32, 32))
    _, boxes = training_transforms(Augment(long_side=64, short_sides=(64,), flip=0.0))(image, boxes)
    assert boxes.tolist() == [[8, 16, 22, 38]]  # 7 and 11 pixels, doubled
