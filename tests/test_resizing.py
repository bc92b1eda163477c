"""Every resize that we compute by hand gives what the library does that the originals call, at hundreds of sizes.

Those that call OpenCV, Pillow or torch themselves are not here. Where sums are taken in another order, a pixel may
differ if its value is within `ROUNDING` of what decides it.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.data.augment import nearest
from common.data.batches import Prepared
from common.results import enlarge as repeat_pixels
from maskrcnn import pasting
from pose2seg.postprocess import inverse_warp
from pose2seg.targets import window_targets
from refinemask_psg import config as refinemask
from refinemask_psg import postprocess as refinemask_postprocess
from refinemask_psg.psg.panoptic_merge import enlarged_rows
from refinemask_psg.u2net.resizing import resize_smoothed
from solov2 import postprocess as solov2_postprocess
from solov2.targets import quarter
from upsnet.config import Inference as Settings
from upsnet.panoptic_merge import paste as stretch_over_box
from upsnet.postprocess import Maps, paste_masks, to_photograph
from upsnet.targets import region_semantics
from yolact import boxes as yolact_boxes
from yolact import postprocess as yolact_postprocess

TIMES = 300
ROUNDING = 1e-4
LOW = 0.05  # a threshold at which masks reach beyond their boxes


def draws(*ranges: tuple[int, int]) -> Iterator[tuple[np.random.RandomState, tuple[int, ...]]]:
    """A generator and whole numbers of these ranges, TIMES times."""
    random = np.random.RandomState(0)
    for _ in range(TIMES):
        yield random, tuple(int(random.randint(low, high)) for low, high in ranges)


def numbered(height: int, width: int) -> NDArray[np.int32]:
    """A map in which every pixel is told from every other."""
    return np.arange(height * width, dtype=np.int32).reshape(height, width)


def random_box(random: np.random.RandomState, height: int, width: int) -> NDArray[np.float32]:
    """A box that may reach beyond an image of this size."""
    x, y = random.uniform(-10, width - 5), random.uniform(-10, height - 5)
    return np.array([x, y, x + random.uniform(0, 1.5 * width), y + random.uniform(0, 1.5 * height)], np.float32)


def put(piece: NDArray[np.float32], left: int, top: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """A piece at its place in an image of zeros."""
    image = np.zeros(size, np.float32)
    bottom, right = min(top + piece.shape[0], size[0]), min(left + piece.shape[1], size[1])
    y, x = max(top, 0), max(left, 0)
    if bottom > y and right > x:
        image[y:bottom, x:right] = piece[y - top : bottom - top, x - left : right - left]
    return image


def decided_alike(found: Tensor, values: Tensor | NDArray[np.float32], threshold: float) -> bool:
    """Whether masks are what these values say, wherever they say it clearly."""
    values = torch.as_tensor(values)
    clear = (values - threshold).abs() > ROUNDING
    return torch.equal(found[clear], (values > threshold)[clear])


def test_masks_are_scaled_to_the_pixels_that_opencvs_nearest_takes():
    for random, (height, width, rows, columns) in draws((1, 200), (1, 200), (1, 200), (1, 200)):
        masks = random.randint(0, 256, (2, height, width)).astype(np.uint8)
        # one over the quotient, as OpenCV computes it: the quotient's reciprocal rounds otherwise
        above = (np.arange(rows) * (1 / (rows / height))).astype(int)
        left = (np.arange(columns) * (1 / (columns / width))).astype(int)
        expected = masks[:, above[:, None], left]
        assert (nearest(torch.from_numpy(masks), rows, columns).numpy() == expected).all()
        halves = nearest(torch.from_numpy(masks > 127), rows, columns)
        assert halves.dtype == torch.bool and (halves.numpy() == (expected > 127)).all()


def test_upsnets_maps_return_to_the_photograph_as_opencvs_nearest_takes_them_at_the_originals_factor():
    for random, (height, width, side) in draws((8, 120), (8, 120), (4, 200)):
        # any scale, and 1.25, 1.5, 2/3 ..: where a product is whole, the last bit decides
        short_side = side if random.rand() < 0.5 else max(1, min(height, width) * (side // 20) // 4)
        scale = short_side / min(height, width)
        resized = cv2.resize(np.zeros((height, width), np.uint8), None, fx=scale, fy=scale).shape
        pixels = numbered(*resized)
        prepared = Prepared(torch.zeros(3, *resized), (height, width), (resized[0], resized[1]))
        values = torch.from_numpy(pixels).long()
        maps = to_photograph(Maps(values, values), prepared, Settings(short_side=short_side, long_side=10**6))
        back = 1 / float(np.float32(scale))  # the original's, in double precision from one kept in single
        expected = cv2.resize(pixels, None, fx=back, fy=back, interpolation=cv2.INTER_NEAREST)
        rows, columns = min(height, expected.shape[0]), min(width, expected.shape[1])
        assert maps.semantic.shape == (height, width)
        assert (maps.semantic.numpy()[:rows, :columns] == expected[:rows, :columns]).all(), (height, width, scale)
        assert torch.equal(maps.channels, maps.semantic)


def test_upsnets_semantic_targets_of_regions_are_opencvs_nearest():
    for random, (height, width) in draws((40, 260), (40, 260)):
        pixels = numbered(height, width)
        x, y = random.randint(0, width - 1), random.randint(0, height - 1)
        right, bottom = random.randint(x + 1, width + 1), random.randint(y + 1, height + 1)
        expected = cv2.resize(pixels[y:bottom, x:right], (28, 28), interpolation=cv2.INTER_NEAREST)
        found = region_semantics(torch.from_numpy(pixels).long(), torch.tensor([[x, y, right, bottom]]).float())
        assert (found[0].numpy() == expected).all(), (bottom - y, right - x)


def test_upsnets_logits_are_stretched_over_a_box_as_opencv_stretches_them():
    for random, (height, width, left, top, last, bottom) in draws(
        (20, 90), (20, 90), (-20, 60), (-20, 60), (0, 80), (0, 80)
    ):
        logits = random.standard_normal((28, 28)).astype(np.float32)
        expected = put(cv2.resize(logits, (last + 1, bottom + 1)), left, top, (height, width))
        corners = torch.tensor([[left, top, left + last, top + bottom]], dtype=torch.float32)
        found = stretch_over_box(torch.from_numpy(logits)[None], corners, height, width)[0].numpy()
        assert np.abs(found - expected).max() < ROUNDING


def ringed(mask: NDArray[np.float32], box: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[int]]:
    """Detectron's way: a ring of zeros around a mask, its box grown to match and cut down to whole pixels."""
    growth = (len(mask) + 2) / len(mask)
    centre, half = (box[2:] + box[:2]) * np.float32(0.5), (box[2:] - box[:2]) * np.float32(0.5) * np.float32(growth)
    return np.pad(mask, 1), [int(value) for value in np.concatenate((centre - half, centre + half))]


def test_upsnets_masks_are_pasted_as_opencv_stretches_them():
    for random, (height, width) in draws((20, 90), (20, 90)):
        logits = random.standard_normal((28, 28)).astype(np.float32)
        box = random_box(random, height, width)
        mask, (x, y, right, bottom) = ringed(torch.from_numpy(logits).sigmoid().numpy(), box)
        expected = put(cv2.resize(mask, (right - x + 1, bottom - y + 1)), x, y, (height, width))
        found = paste_masks(torch.from_numpy(logits)[None], torch.from_numpy(box)[None], height, width)[0]
        assert decided_alike(found, expected, 0.5)


@pytest.mark.parametrize("threshold", [0.5, LOW])
def test_detectrons_masks_are_pasted_as_interpolation_stretches_them(threshold):
    for random, (height, width) in draws((20, 90), (20, 90)):
        soft, box = random.rand(28, 28).astype(np.float32), random_box(random, height, width)
        mask, (x, y, right, bottom) = ringed(soft, box)
        size = (bottom - y + 1, right - x + 1)
        stretched = F.interpolate(torch.from_numpy(mask)[None, None], size, mode="bilinear", align_corners=False)
        expected = put(stretched[0, 0].numpy(), x, y, (height, width))
        boxes = torch.from_numpy(box)[None]
        found = pasting.paste(torch.from_numpy(soft)[None], boxes, (height, width), threshold, "detectron")
        assert decided_alike(found[0], expected, threshold)


@pytest.mark.parametrize("threshold", [0.5, LOW])
def test_mmdetections_masks_are_sampled_at_every_pixel_of_the_image(threshold):
    settings = refinemask.Inference(mask_threshold=threshold)
    for random, (height, width) in draws((20, 90), (20, 90)):
        soft = torch.from_numpy(random.rand(1, 28, 28).astype(np.float32))
        boxes = torch.from_numpy(random_box(random, height, width))[None]
        x = (torch.arange(width) + 0.5 - boxes[0, 0]) / (boxes[0, 2] - boxes[0, 0]) * 2 - 1
        y = (torch.arange(height) + 0.5 - boxes[0, 1]) / (boxes[0, 3] - boxes[0, 1]) * 2 - 1
        grid = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=-1)
        expected = F.grid_sample(soft[None], grid[None], align_corners=False)[0, 0]
        found = pasting.paste(soft, boxes, (height, width), threshold, "mmdetection")[0]
        assert decided_alike(found, expected, threshold)
        found = refinemask_postprocess.paste(soft, boxes, (height, width), settings)[0]
        assert decided_alike(found, expected, threshold)


def test_solov2s_masks_at_a_quarter_are_opencvs_linear_resize():
    for random, (height, width) in draws((1, 20), (1, 20)):
        mask = random.randint(0, 2, (4 * height, 4 * width)).astype(np.uint8)
        expected = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
        assert (quarter(torch.from_numpy(mask).bool()[None])[0].numpy() == expected.astype(bool)).all()


def test_solov2s_masks_are_enlarged_as_two_interpolations_enlarge_them():
    for random, (height, width, cut, rows, columns) in draws((2, 30), (2, 30), (0, 8), (1, 130), (1, 130)):
        soft = torch.from_numpy(random.rand(1, height, width).astype(np.float32))
        resized = max(1, 4 * height - 4 * cut), max(1, 4 * width - cut)
        large = F.interpolate(soft[None], (4 * height, 4 * width), mode="bilinear", align_corners=False)
        large = large[:, :, : resized[0], : resized[1]]
        expected = F.interpolate(large, (rows, columns), mode="bilinear", align_corners=False)[0]
        assert decided_alike(solov2_postprocess.enlarge(soft, resized, (rows, columns), 0.5), expected, 0.5)


def test_yolacts_masks_are_enlarged_as_interpolation_enlarges_them():
    for random, (height, width, rows, columns) in draws((2, 40), (2, 40), (1, 130), (1, 130)):
        boxes = torch.from_numpy(random.rand(2, 4).astype(np.float32))
        soft = yolact_boxes.crop(torch.from_numpy(random.rand(2, height, width).astype(np.float32)), boxes)
        expected = F.interpolate(soft[None], (rows, columns), mode="bilinear", align_corners=False)[0]
        assert decided_alike(yolact_postprocess.enlarge(soft, boxes, (rows, columns)), expected, 0.5)


def test_rows_of_a_semantic_map_are_enlarged_as_interpolation_enlarges_the_whole():
    for random, (height, width, rows, columns) in draws((1, 40), (1, 40), (1, 130), (1, 130)):
        logits = torch.from_numpy(random.standard_normal((2, height, width)).astype(np.float32))
        expected = F.interpolate(logits[None], (rows, columns), mode="bilinear", align_corners=False)[0]
        chosen = torch.arange(int(random.randint(rows)), rows)
        assert (enlarged_rows(logits, chosen, rows, columns) - expected[:, chosen]).abs().max() < ROUNDING


def person_matrix(random: np.random.RandomState, height: int, width: int) -> NDArray[np.float32]:
    """A turned and scaled piece of a photograph, about any of its points, as the middle of a window of 64."""
    angle, scale = random.uniform(-np.pi, np.pi), random.uniform(0.2, 3)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    offset = 32 - turn @ random.uniform(0, (width, height))
    return np.vstack((np.column_stack((turn, offset)), [0, 0, 1])).astype(np.float32)


def test_pose2segs_windows_go_back_into_the_photograph_as_opencv_warps_them():
    for random, (height, width) in draws((10, 90), (10, 90)):
        matrix = person_matrix(random, height, width)
        person = random.rand(64, 64).astype(np.float32)
        both = np.stack((1 - person, person), axis=-1)  # OpenCV rounds otherwise for one channel alone
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        expected = cv2.warpAffine(both, matrix[:2], (width, height), flags=flags)[..., 1]
        found = inverse_warp(torch.from_numpy(person)[None], torch.from_numpy(matrix)[None], (height, width))[0]
        assert (np.abs(found.numpy() - expected) < ROUNDING).mean() > 0.999  # a step of 1/32 apart at a rounding's edge


def test_pose2segs_targets_are_a_persons_mask_as_opencv_warps_it():
    for random, (height, width) in draws((20, 200), (20, 200)):
        matrix = person_matrix(random, height, width)
        mask = np.zeros((height, width), np.uint8)
        cv2.ellipse(mask, (width // 2, height // 2), (width // 3, height // 3), 30, 0, 360, 1, -1)
        expected = cv2.warpAffine(mask, matrix[:2], (64, 64))
        found = window_targets(torch.from_numpy(mask)[None].bool(), torch.from_numpy(matrix)[None], 64)[0]
        assert np.count_nonzero(found.numpy() != expected) <= 0.001 * expected.size


def shrinking(length: int, size: int) -> NDArray[np.float64]:
    """scikit-image's definition, a matrix [size, length]: a Gaussian where sides shrink, then linear; black outside."""
    sigma = max(0.0, (length / size - 1) / 2)
    smooth = np.eye(length)
    if sigma > 0:
        reach = int(4 * sigma + 0.5)
        weights = {step: np.exp(-0.5 * (step / sigma) ** 2) for step in range(-reach, reach + 1)}
        total = sum(weights.values())
        smooth = np.array([[weights.get(j - i, 0.0) / total for j in range(length)] for i in range(length)])
    places = (np.arange(size) + 0.5) * length / size - 0.5
    return np.clip(1 - np.abs(places[:, None] - np.arange(length)), 0, None) @ smooth


def test_u2nets_photographs_shrink_as_a_gaussian_and_linear_steps_between_pixels_do():
    for random, (height, width, rows, columns) in draws((1, 40), (1, 40), (1, 40), (1, 40)):
        image = random.randint(0, 256, (height, width, 3)).astype(np.uint8)
        whole = np.einsum("rh,hwc,kw->rkc", shrinking(height, rows), image / 255, shrinking(width, columns))
        expected = np.clip(whole, image.min() / 255, image.max() / 255)
        assert np.abs(resize_smoothed(image, rows, columns) - expected).max() < 1e-9


def test_drawings_repeat_pixels_as_opencvs_nearest_does():
    for _, (height, width, scale) in draws((1, 20), (1, 20), (1, 7)):
        pixels = numbered(height, width)
        expected = cv2.resize(pixels, (width * scale, height * scale), interpolation=cv2.INTER_NEAREST)
        assert (repeat_pixels(pixels, scale) == expected).all()
