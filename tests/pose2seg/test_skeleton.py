"""Skeleton maps, against their definition pixel by pixel."""

import numpy as np
import pytest
import torch

from pose2seg.skeleton import CHANNELS, LIMBS, skeleton_features
from tests.pose2seg.people import skeletons

SIZE, SPREAD, WIDTH = 32, 3.0, 1.0


def by_definition(joints: np.ndarray) -> np.ndarray:
    """One person's maps [55, SIZE, SIZE], a pixel at a time."""
    maps = np.zeros((CHANNELS, SIZE, SIZE))
    for row, column in np.ndindex(SIZE, SIZE):
        for number, (x, y, visibility) in enumerate(joints):
            exponent = ((column - x) ** 2 + (row - y) ** 2) / (2 * SPREAD**2)
            if visibility and exponent < 4.6025:
                maps[number, row, column] = np.exp(-exponent) * (-1 if visibility == 1 else 1)
        for number, (first, second) in enumerate(LIMBS):
            (x1, y1, v1), (x2, y2, v2) = joints[first], joints[second]
            length = np.hypot(x2 - x1, y2 - y1)
            if not v1 or not v2 or not length:
                continue
            dx, dy = (x2 - x1) / length, (y2 - y1) / length
            inside = round(min(x1, x2) - WIDTH) <= column < round(max(x1, x2) + WIDTH)
            inside &= round(min(y1, y2) - WIDTH) <= row < round(max(y1, y2) + WIDTH)
            if inside and abs((column - x1) * dy - (row - y1) * dx) < WIDTH:
                maps[17 + 2 * number : 19 + 2 * number, row, column] = dx, dy
    return maps


def odd_people() -> torch.Tensor:
    """Where limbs have no length, end between pixels, or lie outside."""
    people = torch.zeros(3, 17, 3)
    people[0, :, :2], people[0, :, 2] = torch.tensor([12.5, 7.5]), 2
    people[1, :, 0], people[1, :, 1], people[1, :, 2] = torch.arange(17) + 0.5, 3.0, torch.arange(17) % 3
    people[2, :, 0], people[2, :, 1], people[2, :, 2] = torch.arange(17) * 4.0 - 20, -5.0, 2
    return people


@pytest.mark.parametrize("people", [skeletons(3, SIZE, SIZE), odd_people()], ids=["usual", "odd"])
def test_maps_are_as_defined(people):
    maps = skeleton_features(people.double(), SIZE, SPREAD, WIDTH)
    for person, drawn in zip(people.double().numpy(), maps.numpy(), strict=True):
        np.testing.assert_allclose(drawn, by_definition(person), atol=1e-9)


def test_limbs_are_those_of_cocos_person_in_order():
    skeleton = "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 6-8 7-9 8-10 9-11 2-3 1-2 1-3 2-4 3-5 4-6 5-7"
    ends = (sorted(int(number) - 1 for number in limb.split("-")) for limb in skeleton.split())
    assert sorted(map(tuple, ends)) == list(LIMBS)


def test_a_stride_samples_the_middle_of_its_cells():
    joint = torch.zeros(1, 17, 3)
    joint[0, 0] = torch.tensor([9.5, 5.5, 2.0])  # the middle of the third and the second cell of four pixels
    drawn = skeleton_features(joint, SIZE, SPREAD, WIDTH, stride=4)
    assert drawn.shape[-2:] == (SIZE // 4, SIZE // 4)
    assert drawn[0, 0, 1, 2] == 1
