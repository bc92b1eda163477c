"""The box heads: a class and a box for each proposal, once or in a cascade (arXiv 1712.00726)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from refinemask_psg.boxes import Size, clip, decode
from refinemask_psg.config import Model
from refinemask_psg.rois import pool, with_image_index
from refinemask_psg.targets import Candidates, Sampled

SIZE = 7


class BoxHead(nn.Module):
    """Features [K, C, 7, 7] -> class logits [K, classes + 1], background last, and deltas [K, classes or 1, 4]."""

    def __init__(self, config: Model, classes: int):
        super().__init__()
        self.first = nn.Linear(config.fpn_channels * SIZE * SIZE, config.box_channels)
        self.second = nn.Linear(config.box_channels, config.box_channels)
        self.classes = nn.Linear(config.box_channels, classes + 1)
        self.deltas = nn.Linear(config.box_channels, 4 if config.box_class_agnostic else 4 * classes)
        for layer in (self.first, self.second):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.first, self.second, self.classes, self.deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.second(F.relu(self.first(features.flatten(1)))))
        return self.classes(hidden), self.deltas(hidden).unflatten(1, (-1, 4))


@dataclass
class StageAnswers:
    """What one stage of the box heads says about some regions."""

    regions: Tensor  # [K, 5] image's index, x1, y1, x2, y2
    logits: Tensor  # [K, classes + 1]
    deltas: Tensor  # [K, classes or 1, 4]


def answer(head: nn.Module, pyramid: list[Tensor], boxes: list[Tensor], finest_scale: int) -> StageAnswers:
    regions = with_image_index(boxes)
    logits, deltas = head(pool(pyramid, regions, SIZE, finest_scale))
    return StageAnswers(regions, logits, deltas)


def run_cascade(
    heads: nn.ModuleList, pyramid: list[Tensor], proposals: Tensor, size: Size, config: Model
) -> list[StageAnswers]:
    """All stages on one image's proposals [n, 4], each on the boxes that the one before it predicts."""
    stages: list[StageAnswers] = []
    for head, stds in zip(heads, config.box_stds, strict=True):
        stages.append(answer(head, pyramid, [proposals], config.finest_scale))
        labels = stages[-1].logits[:, :-1].argmax(dim=1)
        proposals = clip(moved(stages[-1], labels, stds, config.conventions == "mmdetection"), size)
    return stages


def moved(stage: StageAnswers, labels: Tensor, stds: tuple[float, ...], limit_shrinking: bool = True) -> Tensor:
    """The regions moved by the deltas of their class: [K, 4]"""
    if stage.deltas.shape[1] == 1:
        labels = torch.zeros_like(labels)
    chosen = stage.deltas[torch.arange(labels.shape[0], device=labels.device), labels]
    return decode(stage.regions[:, 1:], chosen, stds, limit_shrinking)


@torch.no_grad()
def hardness(head: nn.Module, pyramid: list[Tensor], candidates: list[Candidates], finest_scale: int) -> list[Tensor]:
    """Each candidate's classification loss, for online hard example mining."""
    stage = answer(head, pyramid, [each.boxes for each in candidates], finest_scale)
    labels = torch.cat([each.labels for each in candidates])
    losses = F.cross_entropy(stage.logits.float(), labels, reduction="none")
    return list(torch.split(losses, [len(each.boxes) for each in candidates]))


@torch.no_grad()
def next_proposals(
    stage: StageAnswers, sampled: list[Sampled], sizes: list[tuple[int, int]], stds: tuple[float, ...]
) -> list[Tensor]:
    """What the next stage is trained on: the samples, moved; without the true boxes, which come in anew there.

    A positive moves as its object's class, the others as the class they look most like.
    """
    background = stage.logits.shape[1] - 1
    labels = torch.cat([each.labels for each in sampled])
    labels = torch.where(labels == background, stage.logits[:, :-1].argmax(dim=1), labels)
    boxes = torch.split(moved(stage, labels, stds), [len(each.boxes) for each in sampled])
    proposals = []
    for each, image_boxes, size in zip(sampled, boxes, sizes, strict=True):
        keep = torch.ones(len(image_boxes), dtype=torch.bool, device=image_boxes.device)
        keep[: len(each.is_true_box)] = ~each.is_true_box
        proposals.append(clip(image_boxes, size)[keep])
    return proposals
