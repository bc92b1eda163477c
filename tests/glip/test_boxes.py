"""Anchors in boxes that end at their last pixel."""

import torch

from glip.boxes import anchors_of


def test_the_published_anchors():
    levels = anchors_of([(2, 3), (1, 2), (1, 1), (1, 1), (1, 1)], 8.0, torch.device("cpu"))
    assert levels[0][0].tolist() == [-28, -28, 35, 35]
    assert levels[0][4].tolist() == [-20, -20, 43, 43]  # one to the right, one down
    sides = [level[0, 2:] - level[0, :2] + 1 for level in levels]
    assert [side.tolist() for side in sides] == [[64, 64], [128, 128], [256, 256], [512, 512], [1024, 1024]]
    assert levels[1][1].tolist() == [-56 + 16, -56, 71 + 16, 71]
    assert levels[4][0].tolist() == [-448, -448, 575, 575]
