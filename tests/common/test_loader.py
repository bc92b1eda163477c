"""The order of images and their augmentation: a function of seed, epoch and index alone."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from common.data import loader
from common.data.augment import RandomScale, augmented
from common.data.batches import Target, collate, normalise
from common.data.coco import Sample
from common.data.loader import Steps
from common.errors import UserError
from common.run import distributed


def flip_and_scale(long_side: int, short_sides: list[int], flip: float) -> v2.Transform:
    return v2.Compose([RandomScale(long_side, short_sides), v2.RandomHorizontalFlip(flip)])


def sizes(wide: int, tall: int) -> np.ndarray:
    return np.array([[10, 20]] * wide + [[20, 10]] * tall, np.int32)


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 7), st.integers(0, 5))
def test_an_epoch_shows_every_image_and_only_its_last_step_repeats_any(wide, tall, batch_size, epoch):
    if wide + tall == 0:
        return
    steps = Steps(sizes(wide, tall), batch_size, seed=1, start=0, stop=1)
    batches = steps.epoch_batches(epoch)
    assert batches.shape == (steps.steps_per_epoch, batch_size)
    counts = np.bincount(batches.ravel(), minlength=wide + tall)
    assert (counts >= 1).all()
    assert counts.sum() - (wide + tall) < batch_size


def test_steps_are_of_one_orientation_but_for_what_is_left_over():
    batches = Steps(sizes(17, 11), 4, seed=0, start=0, stop=1).epoch_batches(3)
    mixed = [batch for batch in batches if len(set(batch < 17)) == 2]
    assert len(mixed) <= 1
    square = np.array([[9, 9]] * 8 + [[9, 10]] * 8, np.int32)  # no wide ones
    assert all(len(set(batch < 8)) == 1 for batch in Steps(square, 4, seed=0, start=0, stop=1).epoch_batches(0))


def test_the_order_of_images_stays_from_release_to_release():
    """Or a run that goes on would see other images; the seed and numpy's legacy stream, step by step."""
    random = np.random.RandomState(np.random.SeedSequence((7, 2, 0)).generate_state(1)[0])
    order = random.permutation(5)
    wide, tall = [i for i in order if i < 3], [i for i in order if i >= 3]
    steps = np.array([wide[:2], tall[:2], [wide[2], order[0]]])[random.permutation(3)]
    keys = [[(2, int(image)) for image in step] for step in steps]
    assert list(Steps(sizes(3, 2), 2, seed=7, start=6, stop=9)) == keys


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed: int, epoch: int) -> list[int]:
        return Steps(sizes(9, 9), 3, seed, 0, 1).epoch_batches(epoch).ravel().tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_going_on_in_the_middle_of_an_epoch_continues_the_order():
    whole = list(Steps(sizes(5, 6), 4, seed=2, start=0, stop=9))
    assert list(Steps(sizes(5, 6), 4, seed=2, start=4, stop=9)) == whole[4:]


def test_processes_and_accumulated_batches_share_out_each_steps_images():
    def batches(processes: int, process: int, accumulate: int) -> list[list[tuple[int, int]]]:
        steps = Steps(sizes(8, 8), 8, 0, 0, 2, accumulate, process, processes)
        assert len(steps) == 2 * accumulate
        return list(steps)

    alone = batches(1, 0, 1)
    shares = [batches(2, process, 2) for process in (0, 1)]
    for step in (0, 1):
        parts = [share[2 * step + part] for share in shares for part in (0, 1)]
        assert {len(part) for part in parts} == {2}
        assert sorted(key for part in parts for key in part) == sorted(alone[step])


def test_a_batch_size_that_cannot_be_shared_out_is_refused():
    with pytest.raises(UserError, match="multiple of processes"):
        Steps(sizes(8, 8), 8, seed=0, start=0, stop=1, processes=3)


@pytest.mark.parametrize(
    ("asked", "processors", "processes", "expected"),
    [
        (0, 9, 1, 0),
        (7, 2, 1, 7),
        (-1, 1, 1, 1),
        (-1, 2, 1, 1),
        (-1, 4, 1, 3),
        (-1, 9, 1, 4),
        (-1, 9, 3, 2),
        (-1, 64, 8, 4),
        (-1, 16, 8, 1),
    ],
)
def test_a_worker_for_each_processor_but_one(asked, processors, processes, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader.worker_count(asked) == expected


class Photographs:
    """Four copies of sample(); the last one cannot be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise UserError("image 3 is broken")
        return sample()

    def polygons(self, index: int) -> list[list[np.ndarray]]:
        return [[sample().boxes[:1].reshape(2, 2)], []]


def test_a_training_picture_seeds_no_other_devices_generator(monkeypatch):
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    loader.TrainingSet(Photographs(), flip_and_scale(64, [8, 16, 32], flip=0.5), seed=1)[3, 1]
    assert not seeded  # a network that draws on the device would draw the same after each picture


def test_a_loader_gives_padded_batches_with_polygons_and_the_error_of_what_cannot_be_read():
    transforms = flip_and_scale(64, [8, 16, 32], flip=0.5)
    images = loader.TrainingSet(Photographs(), transforms, seed=1, polygons=True)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = [images[3, 1][0] for _ in range(2)]
    assert torch.equal(*again)  # the same draw each time, and nobody else's draws change
    assert torch.equal(before, torch.random.get_rng_state())
    assert len({images[epoch, 1][0].shape for epoch in range(9)}) == 3
    batches = loader.training_loader(images, [[(0, 0), (0, 1)], [(0, 2), (0, 3)]], 32, workers=0, pin_memory=False)
    first, second = batches
    assert first.images.shape[2] % 32 == first.images.shape[3] % 32 == 0
    for target in first.targets:
        assert target.polygons[0][0].ravel()[[1, 3]].tolist() == target.boxes[0, [1, 3]].tolist()
    assert "image 3 is broken" in str(second)
    assert loader.TrainingSet(Photographs(), transforms, seed=1)[0, 0][1].polygons is None


def sample(height: int = 30, width: int = 50) -> Sample:
    random = np.random.RandomState(0)
    masks = np.zeros((2, height, width), bool)
    masks[0, 5:15, 10:30] = True
    masks[1, 20:25, 1:4] = True
    return Sample(
        image=random.randint(0, 256, (height, width, 3)).astype(np.uint8),
        boxes=np.array([[10, 5, 30, 15], [1, 20, 4, 25]], np.float32),
        labels=np.array([4, 2]),
        masks=masks,
        crowd=np.array([False, True]),
        keypoints=None,
        image_id=1,
        path=None,
    )


def test_scaling_takes_opencvs_pixels_for_image_and_masks():
    image, target = augmented(sample(), flip_and_scale(75, [40], flip=0.0))
    assert image.shape == (3, 40, 67)
    assert (image.permute(1, 2, 0).numpy() == cv2.resize(sample().image, (67, 40))).all()
    for mask, before in zip(target.masks.numpy(), sample().masks[:1], strict=True):
        after = cv2.resize(before.astype(np.uint8), (67, 40), interpolation=cv2.INTER_NEAREST)
        assert (mask == after.astype(bool)).all()
    torch.testing.assert_close(target.boxes[0], torch.tensor([10.0, 5, 30, 15]) * 4 / 3)


@pytest.mark.parametrize(
    ("limits", "size", "scale"), [((75, 40), (40, 67), 4 / 3), ((60, 40), (36, 60), 1.2), ((75, 44), (44, 73), 22 / 15)]
)
def test_what_is_at_the_border_stays_within_it_and_sizes_are_given_with_it(limits, size, scale):
    whole = replace(sample(), boxes=np.array([[40, 20, 50, 30], [0, 0, 3, 3]], np.float32))
    whole.keypoints = np.array([[[50, 30, 1]], [[0, 0, 0]]], np.float32)
    _, target = augmented(whole, flip_and_scale(limits[0], [limits[1]], flip=0.0))
    expected = [40 * scale, 20 * scale, min(50 * scale, size[1]), min(30 * scale, size[0])]
    assert target.boxes[0].tolist() == pytest.approx(expected)
    assert target.masks.shape[1:] == size
    assert target.keypoints[0, 0].tolist() == pytest.approx([50 * scale, 30 * scale, 1])


def test_flipping_mirrors_image_boxes_and_masks_together():
    image, target = augmented(sample(), flip_and_scale(50, [30], flip=1.0))
    assert (image.permute(1, 2, 0).numpy() == sample().image[:, ::-1]).all()
    assert target.boxes[0].tolist() == [20, 5, 40, 15]
    assert (target.masks.numpy() == sample().masks[:1, :, ::-1]).all()


def test_crowds_are_no_objects_but_regions_of_their_own():
    _, target = augmented(sample(), flip_and_scale(50, [30], flip=0.0))
    assert target.labels.tolist() == [4]
    assert len(target.boxes) == len(target.masks) == 1
    assert target.crowd_boxes.tolist() == [[1, 20, 4, 25]]


def test_outlines_keypoints_and_semantic_maps_follow_the_image():
    outline = np.array([[10, 5], [30, 5], [30, 15]], np.float32)
    whole = replace(
        sample(),
        crowd=np.array([False, False]),
        keypoints=np.array([[[10, 5, 2]], [[1, 20, 0]]], np.float32),
        semantic=np.where(sample().masks[0], 7, 255).astype(np.uint8),
        relations=np.array([[0, 1, 3]]),
    )
    _, target = augmented(whole, flip_and_scale(100, [60], flip=1.0), [[outline, outline + 1], []])
    expected = np.array([[80, 10], [40, 10], [40, 30]])  # twice the size, x mirrored at the width of 100
    assert [len(own) for own in target.polygons] == [2, 0]
    assert (target.polygons[0][0] == expected).all()
    assert (target.polygons[0][1] == expected + np.array([-2, 2])).all()
    assert target.keypoints.tolist() == [[[79, 10, 2]], [[97, 40, 0]]]  # pixels, not edges
    assert (target.semantic[target.masks[0]] == 7).all()
    assert (target.semantic[~target.masks[0]] == 255).all()
    assert target.relations.tolist() == [[0, 1, 3]]


def test_padding_of_a_semantic_map_is_unlabelled():
    empty = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 5, 6, dtype=torch.bool))
    empty.semantic = torch.zeros(5, 6, dtype=torch.uint8)
    semantic = collate([(torch.zeros(3, 5, 6, dtype=torch.uint8), empty)], divisor=4).targets[0].semantic
    assert semantic.shape == (8, 8)
    assert (semantic[:5, :6] == 0).all()
    assert (semantic[5:] == 255).all()
    assert (semantic[:, 6:] == 255).all()


def test_the_short_side_is_drawn_from_the_whole_list():
    image = tv_tensors.Image(torch.zeros(3, 10, 20, dtype=torch.uint8))
    scale = RandomScale(100, [10, 20, 30])
    assert {scale.make_params([image])["size"] for _ in range(60)} == {(10, 20), (20, 40), (30, 60)}


def test_collated_images_are_padded_at_the_right_and_the_bottom():
    def item(height: int, width: int):
        image = torch.full((3, height, width), 200, dtype=torch.uint8)
        masks = torch.ones(1, height, width, dtype=torch.bool)
        return image, Target(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), masks)

    batch = collate([item(33, 20), item(10, 40)], divisor=32)
    assert batch.images.shape == (2, 3, 64, 64)
    assert batch.sizes.tolist() == [[33, 20], [10, 40]]
    for image, target, (height, width) in zip(batch.images, batch.targets, batch.sizes.tolist(), strict=True):
        assert image[:, :height, :width].eq(200).all()
        assert image.float().sum() == 200 * 3 * height * width
        assert target.masks[:, :height, :width].all()
        assert target.masks.sum() == height * width
        assert target.masks.shape == (1, 64, 64)
        assert (target.crowd_boxes.shape, target.crowd_labels.shape) == ((0, 4), (0,))  # as many as none
    there = batch.to(torch.device("meta"))
    assert {there.images.device.type, there.sizes.device.type, there.targets[0].masks.device.type} == {"meta"}


def test_padding_is_zero_after_normalisation():
    images = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    values = normalise(images, torch.tensor([[2, 3]]), (10.0, 20.0, 30.0), (2.0, 4.0, 5.0))
    assert values[0, :, :2, :3].unique(dim=1).shape[1] == 1
    assert values[0, :, 0, 0].tolist() == [45.0, 20.0, 14.0]
    assert values[0, :, 2:].eq(0).all()
    assert values[0, :, :, 3:].eq(0).all()


def test_one_process_is_its_own_main():
    assert distributed.is_main()
    assert distributed.gather([1, 2]) == [1, 2]
    assert distributed.mean_over_processes(torch.tensor(3.0)) == 3
