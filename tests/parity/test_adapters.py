"""Adapters follow a case's spec: other numbers of images, chunks and stages than the given cases have."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from refinemask_psg.mask_head import MaskAnswers
from tests.parity import glip, pose2seg, refinemask, solov2
from tests.parity.case import Case
from tests.parity.images import learned_from, numbered


def case_of(spec: dict[str, Any], **inputs: np.ndarray) -> Case:
    arrays = {f"in/{name.replace('__', '/')}": value for name, value in inputs.items()}
    return Case(Path("made-up"), {"system": "x", "state_dict": {"a": {}}, "outputs": {}, "inputs": {}} | spec, arrays)


IMAGES = {name: np.full(1, at) for at, name in enumerate(("image3", "image2", "image"))}


@pytest.mark.parametrize(
    ("spec", "count", "learned"),
    [
        ({}, 1, [2]),
        ({}, 3, [2, 1, 0]),
        ({"images": ["image3", "image"]}, 2, [0, 2]),
        ({"train_batch": "in/image2 alone"}, 1, [1]),
        ({"train_images": ["image3", "image"]}, 2, [0, 2]),
    ],
)
def test_adapters_learn_from_the_images_that_the_spec_lists_or_as_many_as_there_is_ground_truth_of(
    spec: dict[str, Any], count: int, learned: list[int]
) -> None:
    assert [each.tolist() for each in learned_from(case_of(spec, **IMAGES), count)] == [[each] for each in learned]
    with pytest.raises(UserError, match="ground truth of 4 images"):
        learned_from(case_of(spec, **IMAGES), 4)


@pytest.mark.parametrize("names", [["a0", "a1", "a10"], ["a", "a_2_packed"], ["a/1@bits", "a/2@bits"]])
def test_inputs_of_several_images_are_found_however_they_are_numbered(names: list[str]) -> None:
    case = case_of({}, **dict.fromkeys(reversed(names), np.zeros(1)), ab0=np.zeros(1))
    assert list(numbered(case, "a").values()) == names


@pytest.mark.parametrize("of_all", [False, True])
def test_pose2seg_learns_from_the_images_that_the_spec_lists(of_all):
    people = (2, 1, 3)  # of each image
    moves = np.arange(6)[:, None, None] * np.ones((6, 3, 3))
    inputs = {f"image__{number}": np.zeros(1) for number in range(3)}
    inputs |= {f"keypoints__{number}": np.zeros((count, 17, 3)) for number, count in enumerate(people)}
    given = moves if of_all else np.concatenate((moves[:2], moves[3:]))
    case = case_of({"train_images": [0, 2]}, train_aug_matrix=given, **inputs)

    class Model:
        templates = torch.zeros(1, dtype=torch.float64)

    assert pose2seg.chosen(case, people) == [2, 3]
    found = pose2seg.training_moves(case, Model())  # type: ignore[arg-type]
    assert [each[:, 0, 0].tolist() for each in found] == [[0, 1], [3, 4, 5]]
    assert pose2seg.training_images(case_of({"settings": {"train_images": [1]}}, **inputs)) == [1]
    assert pose2seg.training_images(case_of({}, gt_masks__2=np.zeros(1), **inputs)) == [2]
    unmoved = pose2seg.training_moves(case_of({"train_images": [1]}, **inputs), Model())  # type: ignore[arg-type]
    assert [each.tolist() for each in unmoved] == [[np.eye(3).tolist()]]


@pytest.mark.parametrize("name", ["text/hidden", "head/block0/fused_p4", "head/token_logits/p3", "token_logits2"])
def test_glip_compares_what_a_chunk_of_classes_gives_as_what_all_give(name):
    case = case_of({"settings": {}})
    whole, chunk = glip.rule(case, name), glip.rule(case, f"{name}/chunk12")
    assert whole is not None
    assert chunk is not None
    assert (whole.name, whole.tolerance) == (chunk.name, chunk.tolerance)
    assert glip.rule(case, f"{name}/chunk") is None
    assert glip.rule(case, "unheard-of/chunk1") is None


def test_refinemask_gives_the_logits_of_each_stage_of_a_cascade():
    heads = [MaskAnswers([torch.full((2, 3, 28, 28), float(stage))], None) for stage in range(3)]
    computed = refinemask.mask_outputs(heads, torch.tensor([2, 0]))
    case = case_of({"tolerance": 1e-4, "settings": {}})
    for stage in range(3):
        assert (computed[f"mask_logits_stage{stage}"] == stage).all()
        assert computed[f"mask_logits_stage{stage}"].shape == (2, 3, 28, 28)
        assert computed[f"mask_logits_of_label_stage{stage}"].shape == (2, 28, 28)
        assert refinemask.rule(case, f"mask_logits_stage{stage}") is not None
    assert "mask_logits_stage3" not in computed


def test_a_chunks_detections_are_matched_with_that_chunks():
    case = case_of({})
    case.arrays.update({f"out/det/labels{end}": np.full(1, at) for at, end in enumerate(("", "/chunk0", "/chunk1"))})
    assert {name: values.tolist() for name, values in glip.of_chunk(case, 1).outputs.items()} == {"det/labels": [2]}


def test_solov2_learns_from_images_in_the_order_of_their_numbers_also_from_one_that_shows_nothing():
    photographs = {f"train_image_{number}": np.full((8, 8, 3), number, np.uint8) for number in (10, 2)}
    truth = {"gt_boxes_10": np.ones((1, 4), np.float32), "gt_labels_10": np.ones(1, np.int64)}
    packed = {"gt_masks_10_packed": np.full(8, 255, np.uint8)}
    case = case_of({"inputs": {"gt_masks_10_packed": {"unpacked_shape": [1, 8, 8]}}}, **photographs, **truth, **packed)
    batch = solov2.training_batch(case)
    assert batch is not None
    assert [int(image.max()) for image in batch.images] == [2, 10]
    assert [len(target.boxes) for target in batch.targets] == [0, 1]
