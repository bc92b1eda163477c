"""SSD's augmentation: objects and their boxes stay together, whatever happens to the photograph."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.augment import augmented
from common.data.coco import Sample
from yolact.augmentation import SSDAugmentation
from yolact.config import VARIANTS, Augment, Config

SIDE = 128
NOTHING = Augment(photometric=False, expand=1.0, crop=0.0, flip=0.0)


def config(augment: Augment, variant: str = "resnet50_550") -> Config:
    changed = deepcopy(VARIANTS[variant])
    changed.model.input_size, changed.augment = SIDE, augment
    return changed


def sample(height: int = 90, width: int = 120, count: int = 4, crowds: int = 0, seed: int = 0) -> Sample:
    """Bright rectangles on black; each object's colour says its number."""
    random = np.random.RandomState(seed)
    image = np.zeros((height, width, 3), np.uint8)
    boxes, masks = np.zeros((count, 4), np.float32), np.zeros((count, height, width), bool)
    for index in range(count):
        x, y = random.randint(0, width - 30), random.randint(0, height - 25)
        boxes[index] = x, y, x + random.randint(10, 30), y + random.randint(10, 25)
        x1, y1, x2, y2 = boxes[index].astype(int)
        masks[index, y1:y2, x1:x2] = True
        image[y1:y2, x1:x2] = 60 * (index + 1)
    crowd = np.arange(count) >= count - crowds
    return Sample(image, boxes, np.arange(count), masks, crowd, None, 1, "scene.jpg")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(25))
def test_boxes_stay_tight_around_their_masks(seed):
    torch.manual_seed(seed)
    image, target = augmented(sample(seed=seed), SSDAugmentation(config(Augment(expand=2.0))))
    assert image.shape == (3, SIDE, SIDE)
    assert image.dtype == torch.uint8
    assert len(target.boxes) == len(target.labels) == len(target.masks) > 0
    for box, mask in zip(target.boxes, target.masks, strict=True):
        y, x = mask.nonzero(as_tuple=True)
        around = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1))
        assert (around - box).abs().max() <= 2.5  # of pixels that were enlarged


def test_without_changes_the_photograph_is_only_stretched():
    given = sample()
    image, target = augmented(given, SSDAugmentation(config(NOTHING)))
    scale = torch.tensor([SIDE / 120, SIDE / 90] * 2)
    torch.testing.assert_close(target.boxes, torch.from_numpy(given.boxes) * scale)
    assert target.labels.tolist() == [0, 1, 2, 3]
    assert image[:, target.masks[3]].float().mean() > 200  # painted last, nothing covers it


def test_mirroring_mirrors_everything():
    plain, mirrored = (augmented(sample(), SSDAugmentation(config(replace(NOTHING, flip=flip)))) for flip in (0.0, 1.0))
    assert torch.equal(mirrored[0], plain[0].flip(2))
    assert torch.equal(mirrored[1].masks, plain[1].masks.flip(2))
    expected = torch.stack([SIDE - plain[1].boxes[:, 2], SIDE - plain[1].boxes[:, 0]], dim=1)
    torch.testing.assert_close(mirrored[1].boxes[:, ::2], expected)


def test_what_lies_around_an_expanded_photograph_is_the_mean_colour():
    torch.manual_seed(0)
    grown = []
    for _ in range(40):
        image, _ = augmented(sample(), SSDAugmentation(config(replace(NOTHING, expand=4.0))))
        corners = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].T.tolist()
        grown.append([124, 117, 104] in corners)
    assert 8 < sum(grown) < 32  # half of the photographs


def test_crowds_are_kept_apart_and_follow():
    _, target = augmented(sample(crowds=1), SSDAugmentation(config(replace(NOTHING, flip=1.0))))
    assert len(target.boxes) == 3
    given = sample(crowds=1).boxes[3]
    x1, x2 = (SIDE * (1 - given[2] / 120), SIDE * (1 - given[0] / 120))
    assert target.crowd_boxes[0, ::2].tolist() == pytest.approx([x1, x2], rel=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 400), (90, 120)])
def test_photographs_without_objects_or_of_odd_shapes_come_through(height, width):
    torch.manual_seed(0)
    empty = replace(
        sample(count=0), image=np.zeros((height, width, 3), np.uint8), masks=np.zeros((0, height, width), bool)
    )
    for _ in range(10):
        image, target = augmented(empty, SSDAugmentation(config(Augment(crop=1.0))))
        assert image.shape == (3, SIDE, SIDE)
        assert target.masks.shape == (0, SIDE, SIDE)


def test_a_frame_that_cannot_be_found_ends_the_search():
    masks = np.zeros((1, 3, 400), bool)
    masks[:, 1, 200] = True
    boxes = np.array([[200, 1, 201, 2]], np.float32)
    thin = replace(sample(count=1), image=np.zeros((3, 400, 3), np.uint8), masks=masks, boxes=boxes)
    image, _ = augmented(thin, SSDAugmentation(config(Augment(crop=1.0, expand=1.0))))
    assert image.shape == (3, SIDE, SIDE)


def test_the_same_seed_gives_the_same_picture():
    pictures = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        pictures.append(augmented(sample(), SSDAugmentation(config(Augment())))[0])
    assert torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])
