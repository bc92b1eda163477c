"""Skeletons, photographs and a small network for these tests."""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from pose2seg.config import VARIANTS, Config
from pose2seg.network import Pose2Seg
from pose2seg.templates import published_templates


def small_config() -> Config:
    config = deepcopy(VARIANTS["shapes"])
    config.model.input_size, config.model.window, config.model.fpn_channels = 96, 32, 32
    config.model.segmentation_blocks = 1
    return config


def small_model(seed: int = 0) -> Pose2Seg:
    torch.manual_seed(seed)
    return Pose2Seg(small_config()).eval()


def skeletons(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Templates of random sizes, turns and places; some joints hidden, some missing. [count, 17, 3]"""
    random = np.random.RandomState(seed)
    joints = published_templates()[random.randint(6, size=count)].numpy().copy()
    angles, sides = random.uniform(-1, 1, count), random.uniform(0.3, 0.9, count) * min(height, width)
    turns = np.stack((np.cos(angles), -np.sin(angles), np.sin(angles), np.cos(angles)), axis=1).reshape(-1, 2, 2)
    places = random.uniform(0.3, 0.7, (count, 1, 2)) * (width, height)
    joints[..., :2] = (joints[..., :2] - 0.5) @ turns * sides[:, None, None] + places
    labelled = (joints[..., 2] > 0) & (random.rand(count, 17) < 0.8)
    visibility = np.where(labelled, random.choice([1, 2], size=(count, 17), p=[0.2, 0.8]), 0)
    joints[..., 2] = visibility
    return torch.from_numpy(joints * labelled[..., None]).float()
