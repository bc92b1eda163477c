"""Anchors: the boxes at every feature pixel that the region proposal network chooses from and corrects."""

import torch
from torch import Tensor

from maskrcnn.config import Convention, Proposals


def anchors_of_levels(
    features: list[Tensor], input_size: tuple[int, int], settings: Proposals, convention: Convention
) -> list[Tensor]:
    """For each level's features [N, C, h, w] its anchors [h * w * A, 4], in the order row, column, shape."""
    single = len(settings.anchor_strides) == 1
    anchors = []
    for level, (values, stride) in enumerate(zip(features, settings.anchor_strides, strict=True)):
        sizes = settings.anchor_sizes if single else settings.anchor_sizes[level : level + 1]
        shapes = cell_anchors(sizes, settings.aspect_ratios, stride, convention).to(values.device)
        height, width = values.shape[2:]
        steps = (stride, stride)
        if convention == "torchvision":  # with odd sides, 61 instead of 64, for example
            steps = input_size[0] // height, input_size[1] // width
        y = torch.arange(height, device=values.device) * steps[0]
        x = torch.arange(width, device=values.device) * steps[1]
        shifts = torch.stack((x.expand(height, width), y[:, None].expand(height, width)), dim=2).repeat(1, 1, 2)
        anchors.append((shifts[:, :, None] + shapes).view(-1, 4))
    return anchors


def in_anchor_order(answers: Tensor, numbers: int) -> Tensor:
    """One level's answers, so many numbers for each anchor, beside its anchors. [N, A k, h, w] -> [N, h * w * A, k]"""
    images, channels, height, width = answers.shape
    answers = answers.reshape(images, channels // numbers, numbers, height, width)
    return answers.permute(0, 3, 4, 1, 2).reshape(images, -1, numbers)


def cell_anchors(sizes: tuple[int, ...], ratios: tuple[float, ...], stride: int, convention: Convention) -> Tensor:
    """The anchors of the first pixel [A, 4], ratio by ratio and in each from size to size; float64 until the end."""
    size, ratio = torch.tensor(sizes, dtype=torch.float64), torch.tensor(ratios, dtype=torch.float64)[:, None]
    if convention == "detectron":  # a window of stride x stride pixels, reshaped, rounded, and only then enlarged
        width = torch.sqrt(stride**2 / ratio).round()
        height = (width * ratio).round()
        width, height = width * size / stride, height * size / stride
        centre, inclusive = 0.5 * (stride - 1), 1
    else:
        width, height = size / ratio.sqrt(), size * ratio.sqrt()
        centre, inclusive = 0.0, 0
    half = torch.stack((width, height), dim=2).view(-1, 2) / 2 - 0.5 * inclusive
    anchors = torch.cat((centre - half, centre + half), dim=1)
    return (anchors.round() if convention == "torchvision" else anchors).float()
