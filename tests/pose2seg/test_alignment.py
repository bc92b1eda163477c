"""Matching and affine align, against least squares and sampling written out."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pose2seg.alignment import affine_align, align, similarities, windows_of
from pose2seg.geometry import inverse, letterbox_matrix, moved, similarity_matrices
from pose2seg.templates import JOINT_NAMES, mirrored_order, published_templates
from tests.pose2seg.people import skeletons

TEMPLATES = published_templates()


def solved(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The similarity by numpy's singular value decomposition: the smallest one where it is open."""
    rows, aims = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0], [y, -x, 0, 1]]
        aims += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(aims), rcond=1e-6)[0]
    return np.array([[a, b, c], [-b, a, d], [0, 0, 1]])


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from(["spread", "line", "point"]))
def test_similarities_are_those_of_least_squares(seed, kind):
    random = np.random.RandomState(seed)
    joints = random.uniform(0, 128, (17, 2))
    if kind == "line":
        joints = joints[:1] + np.arange(17)[:, None] * joints[1:2] / 128
    if kind == "point":
        joints = np.repeat(joints[:1], 17, axis=0)
    joints = np.concatenate((joints, random.randint(0, 3, (17, 1))), axis=1).astype(np.float32)
    template = TEMPLATES[random.randint(6)]
    common = (joints[:, 2] > 0) & (template[:, 2].numpy() > 0)
    matrices, scores = similarities(torch.from_numpy(joints)[None], template[None], covered=False)
    if common.sum() < 3:
        assert scores.item() == 0
        assert matrices[0].equal(torch.eye(3))
        return
    expected = solved(joints[common, :2].astype(np.float64), template[common, :2].double().numpy())
    np.testing.assert_allclose(matrices[0].numpy(), expected, rtol=2e-4, atol=2e-6)
    residuals = joints[common, :2] @ expected[:2, :2].T + expected[:2, 2] - template[common, :2].numpy()
    either = (joints[:, 2] > 0) | (template[:, 2].numpy() > 0)
    score = np.exp(-(residuals**2).sum(axis=1) / 2).mean() * common.sum() / either.sum()
    assert scores.item() == pytest.approx(score, abs=1e-5)


def test_a_person_in_a_templates_pose_fills_the_window_as_the_template_does():
    turned = similarity_matrices((1, 1), 40, torch.tensor([30.0]), torch.ones(1), torch.tensor([[0.5, 0.25]]))[0]
    for number, template in enumerate(TEMPLATES[:3]):
        person = torch.cat((moved(template[:, :2], turned), 2.0 * (template[:, 2:] > 0)), dim=1)
        found = align(person[None], TEMPLATES, 128, 64)
        assert found.templates.item() == number
        assert found.scores.item() == pytest.approx(1)
        there = template[:, 2] > 0
        torch.testing.assert_close(
            moved(person[there, :2], found.matrices[0]), 64 * template[there, :2], atol=1e-3, rtol=0
        )


def test_a_mirrored_person_matches_a_template_with_exchanged_sides():
    person = TEMPLATES[0] * torch.tensor([-60.0, 60.0, 1.0]) + torch.tensor([90.0, 20.0, 0.0])
    assert align(person[None], TEMPLATES, 128, 64).templates.item() == 3
    names = [JOINT_NAMES[at] for at in mirrored_order()]
    assert names[:3] == ["nose", "right_eye", "left_eye"]
    assert TEMPLATES[3:].equal(TEMPLATES[:3, mirrored_order()])


@pytest.mark.parametrize("visible", [0, 1, 2])
def test_too_few_joints_leave_the_whole_image(visible):
    person = torch.zeros(1, 17, 3)
    person[0, :visible] = torch.tensor([30.0, 40.0, 2.0])
    found = align(person, TEMPLATES, 128, 64)
    assert found.templates.item() == -1
    assert found.scores.item() == 0
    assert found.matrices[0].equal(torch.diag(torch.tensor([0.5, 0.5, 1.0])))


def test_a_person_larger_than_the_image_is_not_shrunk_further():
    person = TEMPLATES[:1] * torch.tensor([200.0, 200.0, 1.0])
    found = align(person, TEMPLATES, 128, 64)
    assert found.template_scores[0, 0] > 0.99
    assert found.templates.item() == -1
    assert found.matrices[0, 0, 0] == 0.5


def test_a_template_without_one_of_the_persons_joints_is_out():
    behind = TEMPLATES[1] * torch.tensor([60.0, 60.0, 1.0])
    assert align(behind[None], TEMPLATES, 128, 64).templates.item() == 1
    behind[0] = torch.tensor([30.0, 10.0, 2.0])  # a nose
    assert align(behind[None], TEMPLATES, 128, 64).template_scores[0, 1] == 0


def test_people_together_are_aligned_as_each_alone():
    people = skeletons(30, 128, 128)
    together = align(people, TEMPLATES, 128, 64)
    for number, person in enumerate(people):
        alone = align(person[None], TEMPLATES, 128, 64)
        assert alone.templates[0] == together.templates[number]
        torch.testing.assert_close(alone.matrices[0], together.matrices[number], rtol=1e-5, atol=1e-4)


def test_windows_are_bilinear_samples_of_the_features():
    features = torch.rand(2, 16, 16)
    matrices = similarity_matrices((16, 16), 8, torch.tensor([0.0, 40.0]), torch.tensor([1.0, 3.0]), torch.zeros(2, 2))
    windows = windows_of(features, matrices, 8)
    padded = np.pad(features.numpy(), ((0, 0), (20, 20), (20, 20)))
    stretch = 16 / 15  # the original's normalisation
    back = np.linalg.inv(matrices.double().numpy())
    for person, row, column in np.ndindex(2, 8, 8):
        x, y, _ = back[person] @ (column * stretch, row * stretch, 1) / stretch
        left, top = int(np.floor(x)), int(np.floor(y))
        corners = padded[:, top + 20 : top + 22, left + 20 : left + 22]
        shares = np.outer((1 - (y - top), y - top), (1 - (x - left), x - left))
        np.testing.assert_allclose(windows[person, :, row, column], (corners * shares).sum(axis=(1, 2)), atol=1e-4)


def test_each_image_gives_windows_to_its_own_people():
    features = torch.rand(3, 2, 16, 16)
    matrices = [torch.eye(3).repeat(count, 1, 1) for count in (2, 0, 1)]
    windows = affine_align(features, matrices, 8)
    expected = [windows_of(features[image], torch.eye(3)[None], 8)[0] for image in (0, 0, 2)]
    torch.testing.assert_close(windows, torch.stack(expected))


def test_the_letterbox_keeps_the_centre_and_fits():
    matrix = letterbox_matrix(480, 640, 512)
    corners = moved(torch.tensor([[320.0, 240.0], [0.0, 0.0], [640.0, 480.0]]), matrix)
    assert corners.tolist() == [[256, 256], [0, 64], [512, 448]]
    torch.testing.assert_close(matrix @ inverse(matrix), torch.eye(3), atol=1e-4, rtol=0)
