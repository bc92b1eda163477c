"""What training does to photographs: crops keep pixels and objects together, and drop what is lost."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from common.data.augment import augmented
from common.data.coco import Sample
from refinemask_psg.augmentation import RandomCrop, training_transforms
from refinemask_psg.config import VARIANTS, Augment


@pytest.fixture
def sample(tmp_path) -> Sample:
    """Two objects, painted in their own colours, and a crowd, at opposite corners of a 90 x 120 photograph."""
    image = np.zeros((90, 120, 3), np.uint8)
    masks = np.zeros((3, 90, 120), bool)
    boxes = np.array([[5, 5, 35, 45], [80, 50, 110, 85], [0, 60, 30, 90]], np.float32)
    for mask, (left, top, right, bottom), colour in zip(masks, boxes.astype(int), (100, 200, 50), strict=True):
        mask[top:bottom, left:right] = True
        image[mask] = colour
    labels, crowd = np.array([3, 7, 1]), np.array([False, False, True])
    found = {"image": image, "boxes": boxes, "labels": labels, "masks": masks}
    return Sample(**found, crowd=crowd, keypoints=None, image_id=1, path=tmp_path)


def test_objects_stay_with_their_pixels(sample):
    crop = RandomCrop(20, 40)
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        image, target = augmented(sample, v2.Compose([crop]))
        assert 20 <= min(image.shape[1:]) <= max(image.shape[1:]) <= 40
        assert len(target.labels) == len(target.masks) == len(target.boxes)
        assert len(target.crowd_boxes) == len(target.crowd_labels)
        seen.add(tuple(target.labels.tolist()))
        for label, mask, box in zip(target.labels.tolist(), target.masks, target.boxes.long().tolist(), strict=True):
            assert (image[0][mask] == {3: 100, 7: 200}[label]).all()
            rows, columns = mask.nonzero(as_tuple=True)
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert {(), (3,), (7,)} <= seen


def test_a_crop_is_never_larger_than_the_photograph(sample):
    image, _ = augmented(sample, v2.Compose([RandomCrop(200, 300)]))
    assert image.shape == (3, 90, 120)


def test_half_of_the_photographs_are_cropped(sample):
    settings = Augment(240, (180,), flip=0.0, crop=0.5, crop_short_sides=(90,), crop_sides=(30, 60))
    transforms = training_transforms(settings)
    sizes = []
    for seed in range(40):
        torch.manual_seed(seed)
        sizes.append(tuple(augmented(sample, transforms)[0].shape[1:]))
    assert 10 <= sizes.count((180, 240)) <= 30


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variants_augmentation_works(sample, variant):
    torch.manual_seed(0)
    image, target = augmented(sample, training_transforms(VARIANTS[variant].augment))
    assert image.dtype == torch.uint8
    assert target.masks.shape[1:] == image.shape[1:]
