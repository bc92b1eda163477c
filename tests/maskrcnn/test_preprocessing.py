"""Sizes and pixels of the network's input, in each library's way."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn.config import MMDETECTION, TORCHVISION, Conventions, Model
from maskrcnn.preprocessing import prepare, scaled_size


@pytest.mark.parametrize(
    ("conventions", "size", "expected"),
    [
        (Conventions(), (480, 640), (800, 1066)),  # 1066.67 is cut
        (Conventions(), (640, 480), (1066, 800)),
        (Conventions(), (400, 1000), (533, 1332)),  # the long side would be 2000
        (Conventions(), (800, 1200), (800, 1200)),
        (MMDETECTION, (480, 640), (800, 1067)),
        (MMDETECTION, (400, 1000), (533, 1333)),
        (TORCHVISION, (480, 640), (800, 1066)),
        (TORCHVISION, (400, 1000), (533, 1333)),
    ],
)
def test_sizes(conventions, size, expected):
    assert scaled_size(size, 1333, 800, conventions) == expected


def test_detectrons_input_is_pillows_in_reversed_colours_and_padded_with_zeros():
    image = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype(np.uint8)
    prepared = prepare(image, 100, 40, Model(), Conventions())
    assert prepared.resized_size == (40, 56)
    assert prepared.tensor.shape == (3, 64, 64)
    small = np.asarray(Image.fromarray(image).resize((56, 40), Image.Resampling.BILINEAR)).astype(np.float32)
    expected = torch.from_numpy(small[:, :, ::-1] - np.array(Model().mean, np.float32)).permute(2, 0, 1)
    torch.testing.assert_close(prepared.tensor[:, :40, :56], expected, rtol=0, atol=1e-4)
    assert not prepared.tensor[:, 40:].any()
    assert not prepared.tensor[:, :, 56:].any()


def test_without_a_divisor_nothing_is_padded():
    image = np.zeros((50, 70, 3), np.uint8)
    assert prepare(image, 100, 40, Model(), Conventions(size_divisor=1)).tensor.shape == (3, 40, 56)


@pytest.mark.parametrize("conventions", [Conventions(), MMDETECTION, TORCHVISION])
def test_a_single_pixel_is_a_photograph_too(conventions):
    assert prepare(np.zeros((1, 1, 3), np.uint8), 64, 32, Model(), conventions).resized_size == (32, 32)
