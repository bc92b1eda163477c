"""Where training puts the objects, by hand-computed numbers."""

import torch
from torchvision import tv_tensors

from maskrcnn.augmentation import training_transforms
from maskrcnn.config import MMDETECTION, Augment, Conventions


def transformed(conventions: Conventions, flip: float, boxes: list[float]) -> dict[str, torch.Tensor]:
    items = {
        "image": tv_tensors.Image(torch.arange(20 * 40 * 3).reshape(3, 20, 40).to(torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([boxes]), format="XYXY", canvas_size=(20, 40)),
        "masks": tv_tensors.Mask(torch.zeros(1, 20, 40, dtype=torch.bool)),
        # an outline's points travel as boxes without extent
        "points": tv_tensors.BoundingBoxes(torch.tensor([[4.0, 6, 4, 6]]), format="XYXY", canvas_size=(20, 40)),
    }
    return training_transforms(Augment(long_side=80, short_sides=(40,), flip=flip), conventions)(items)


def test_boxes_to_their_last_pixel_are_scaled_as_such_and_mirrored_by_pixels():
    scaled = transformed(Conventions(), 0.0, [4, 6, 14, 16])
    assert scaled["image"].shape == (3, 40, 80)
    assert scaled["masks"].shape == (1, 40, 80)
    assert scaled["boxes"].tolist() == [[8, 12, 26, 30]]  # 13 and 15 doubled
    assert scaled["points"][:, :2].tolist() == [[8, 12]]
    mirrored = transformed(Conventions(), 1.0, [4, 6, 14, 16])
    assert mirrored["boxes"].tolist() == [[80 - 26 - 1, 12, 80 - 8 - 1, 30]]
    assert mirrored["points"][:, :2].tolist() == [[80 - 8 - 1, 12]]  # the original mirrors outlines by pixels too


def test_boxes_after_their_last_pixel_are_mirrored_about_the_middle():
    mirrored = transformed(MMDETECTION, 1.0, [4, 6, 14, 16])
    assert mirrored["boxes"].tolist() == [[80 - 28, 12, 80 - 8, 32]]
    assert mirrored["points"][:, :2].tolist() == [[80 - 8, 12]]


def test_boxes_are_cut_at_the_border():
    assert transformed(Conventions(), 0.0, [-5, 6, 60, 16])["boxes"].tolist() == [[0, 12, 78, 30]]
