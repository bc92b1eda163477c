"""From windows back to the photograph, as OpenCV's warpAffine does it; and targets the other way."""

import cv2
import numpy as np
import pytest
import torch

from pose2seg import postprocess
from pose2seg.config import Augment
from pose2seg.geometry import moved, similarity_matrices
from pose2seg.postprocess import boxes_around, inverse_warp, masks_of_people
from pose2seg.targets import choose_people, random_matrices, window_targets

SIZE = (48, 60)


def windows_and_matrices(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    settings = Augment(rotation=180.0, scale=(0.5, 2.0), shift=0.3)
    letterbox = similarity_matrices(SIZE, 16, torch.zeros(1), torch.ones(1), torch.zeros(1, 2))
    return torch.rand(count, 16, 16), random_matrices(count, 16, settings) @ letterbox


def test_the_inverse_warp_is_opencvs():
    windows, matrices = windows_and_matrices(6)
    ours = inverse_warp(windows, matrices, SIZE)
    flags = cv2.INTER_LINEAR + cv2.WARP_INVERSE_MAP
    for window, matrix, warped in zip(windows.numpy(), matrices.numpy(), ours.numpy(), strict=True):
        both = np.stack((1 - window, window), axis=-1)  # the original warps background and person together
        theirs = cv2.warpAffine(both, matrix[:2], SIZE[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT)[..., 1]
        np.testing.assert_allclose(warped, theirs, atol=1e-5)


def test_chunks_give_the_same_masks(monkeypatch):
    windows, matrices = windows_and_matrices(7)
    whole = masks_of_people(windows, matrices, SIZE)
    assert whole.any(dim=(1, 2)).all()
    for pixels in (1, 2 * SIZE[0] * SIZE[1], 10**9):
        monkeypatch.setattr(postprocess, "PIXELS_AT_ONCE", pixels)
        assert masks_of_people(windows, matrices, SIZE).equal(whole)


def test_exactly_one_half_is_background():
    identity = torch.eye(3)[None]
    window = torch.full((1, 16, 16), 0.5)
    assert not masks_of_people(window, identity, (16, 16)).any()
    assert masks_of_people(window + 1e-3, identity, (16, 16)).all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_extreme_matrices_overflow_nothing(scale):
    matrix = torch.diag(torch.tensor([scale, scale, 1.0]))[None]
    warped = inverse_warp(torch.ones(1, 16, 16), matrix, (40, 5000))
    assert warped[0, 0, 0] == 1
    assert warped[0, -1, -1] == (1 if scale < 1 else 0)


def test_boxes_are_tight_and_zero_around_nothing():
    masks = torch.zeros(2, 10, 12, dtype=torch.bool)
    masks[0, 2:5, 3:9] = True
    assert boxes_around(masks).tolist() == [[3, 2, 9, 5], [0, 0, 0, 0]]


def test_targets_are_opencvs():
    _, matrices = windows_and_matrices(5)
    masks = np.zeros((5, *SIZE), np.uint8)
    for number, mask in enumerate(masks):
        cv2.ellipse(mask, (20 + 5 * number, 25), (15, 8 + number), 20 * number, 0, 360, 1, -1)
    ours = window_targets(torch.from_numpy(masks).bool(), matrices, 16)
    theirs = np.stack(
        [cv2.warpAffine(m, matrix[:2].numpy(), (16, 16)) for m, matrix in zip(masks, matrices, strict=True)]
    )
    assert theirs.any()
    assert (ours.numpy() != theirs).mean() < 0.002  # where a share is one half, versions of OpenCV differ as well


@pytest.mark.parametrize(("counts", "most"), [([2, 0, 3], 8), ([5, 0, 9, 1], 8), ([1], 1)])
def test_so_many_people_are_chosen_and_nobody_twice(counts, most):
    torch.manual_seed(0)
    chosen = choose_people(counts, most)
    assert sum(map(len, chosen)) == min(most, sum(counts))
    for people, count in zip(chosen, counts, strict=True):
        assert len(set(people.tolist())) == len(people)
        assert all(0 <= person < count for person in people.tolist())


def test_everybody_has_the_same_chance():
    torch.manual_seed(0)
    seen = torch.zeros(12)
    for _ in range(600):
        first, second = choose_people([5, 7], 4)
        seen[first] += 1
        seen[5 + second] += 1
    assert ((seen - 200).abs() < 60).all()  # more than five standard deviations


def test_windows_move_within_the_settings():
    torch.manual_seed(0)
    settings = Augment()
    matrices = random_matrices(500, 64, settings)
    scales = matrices[:, 0, :2].norm(dim=1)
    assert settings.scale[0] <= scales.min() < 0.82
    assert 1.18 < scales.max() <= settings.scale[1] + 1e-6
    angles = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert 28 < angles.abs().max() <= 30.001
    centres = moved(torch.tensor([[32.0, 32.0]]), matrices)[:, 0] - 32
    assert 6 < centres.abs().max() <= 6.4001
