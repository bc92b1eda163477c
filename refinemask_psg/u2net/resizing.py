"""Shrinking with a Gaussian before, as skimage.transform.resize does by default; U-2-Net was published with it."""

import cv2
import numpy as np
from numpy.typing import NDArray


def resize_smoothed(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float64]:
    """[H, W, C] bytes -> [height, width, C] from 0 to 1, bilinear; smoothed along the sides that shrink."""
    low, high = int(image.min()) / 255, int(image.max()) / 255
    values = image.astype(np.float64) / 255
    for axis, size in ((0, height), (1, width)):
        sigma = max(0.0, (values.shape[axis] / size - 1) / 2)
        values = interpolate(smooth(values, axis, sigma) if sigma > 0 else values, axis, size)
    return np.asarray(np.clip(values, low, high), np.float64)


def smooth(values: NDArray[np.float64], axis: int, sigma: float) -> NDArray[np.float64]:
    """A Gaussian along one axis, cut off at four sigmas; beyond the borders the image is black."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    one = np.ones(1)
    across, down = (one, weights) if axis == 0 else (weights, one)
    smoothed = cv2.sepFilter2D(values, cv2.CV_64F, across, down, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(smoothed, np.float64)


def interpolate(values: NDArray[np.float64], axis: int, size: int) -> NDArray[np.float64]:
    """Linear along one axis, pixel centres on pixel centres; beyond the borders the image is black."""
    position = (np.arange(size) + 0.5) * values.shape[axis] / size + 0.5  # in the image with a border of one pixel
    first = np.floor(position).astype(np.int64)
    share = (position - first).reshape(-1, *[1] * (values.ndim - 1 - axis))
    bordered = np.pad(values, [(1, 1) if each == axis else (0, 0) for each in range(values.ndim)])
    mixed = bordered.take(first, axis) * (1 - share) + bordered.take(first + 1, axis) * share
    return np.asarray(mixed, np.float64)
