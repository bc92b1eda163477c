"""Proposals, their features, the box heads' losses and detections: one anchor, region and class after the other."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import batched_nms, generalized_box_iou_loss

from common.data.batches import Prepared
from refinemask_psg.box_head import StageAnswers, next_proposals
from refinemask_psg.boxes import clip, decode, encode, level_anchors
from refinemask_psg.config import Config, Inference, Model
from refinemask_psg.losses import box_losses, rpn_losses
from refinemask_psg.postprocess import detections, scale_of
from refinemask_psg.rois import pool, with_image_index
from refinemask_psg.rpn import propose
from refinemask_psg.targets import Sampled

SHAPES = ((3, 4), (2, 2), (1, 2), (1, 1), (1, 1))  # of the pyramid's levels
STDS = (0.1, 0.1, 0.2, 0.2)
LOSSES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss}


def answers() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Of two images: three logits at each place, and three times four deltas."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, *shape) for shape in SHAPES], [0.5 * torch.randn(2, 12, *shape) for shape in SHAPES]


def anchor_by_anchor(image: int, scale: int) -> list[tuple[int, tuple[int, int], float, torch.Tensor, torch.Tensor]]:
    """Level, place in pixels, logit, deltas and anchor, in order."""
    logits, deltas = answers()
    every = []
    for level, (height, width) in enumerate(SHAPES):
        anchors = iter(level_anchors(height, width, 4 * 2**level, scale, torch.device("cpu")))
        for y, x, ratio in product(range(height), range(width), range(3)):
            place = (y * 4 * 2**level, x * 4 * 2**level)
            moves = deltas[level][image, 4 * ratio : 4 * ratio + 4, y, x]
            every.append((level, place, logits[level][image, ratio, y, x].item(), moves, next(anchors)))
    return every


@pytest.mark.parametrize("drop_empty", [True, False])
def test_proposals_are_the_best_of_each_level_without_duplicates(drop_empty):
    sizes = [(20, 14), (16, 24)]
    found = propose(
        *answers(), sizes, Model(anchor_scale=2), before_nms=8, after_nms=12, threshold=0.5, drop_empty=drop_empty
    )
    for image, size in enumerate(sizes):
        boxes, scores, levels = [], [], []
        for level in range(5):
            own = [each for each in anchor_by_anchor(image, 2) if each[0] == level]
            for _, _, logit, moves, anchor in sorted(own, key=lambda each: -each[2])[:8]:
                box = clip(decode(anchor[None], moves[None], (1, 1, 1, 1)), size)[0]
                if not drop_empty or (box[2:] > box[:2]).all():
                    boxes.append(box)
                    scores.append(1 / (1 + math.exp(-logit)))
                    levels.append(level)
        kept = batched_nms(torch.stack(boxes), torch.tensor(scores), torch.tensor(levels), 0.5)
        assert len(kept) > 12
        torch.testing.assert_close(found[image].boxes, torch.stack(boxes)[kept[:12]])
        torch.testing.assert_close(found[image].scores, torch.tensor(scores)[kept[:12]])


def test_anchors_within_the_image_learn_to_find_objects_or_nothing():
    model = Model(anchor_scale=2, rpn_samples=8, rpn_sampling="even")
    sizes, objects = [(12, 16), (8, 8)], [torch.tensor([[4.0, 4, 12, 12], [0, 0, 20, 16]]), torch.zeros(0, 4)]
    class_loss = box_loss = count = 0.0
    for image, (size, boxes) in enumerate(zip(sizes, objects, strict=True)):
        every = anchor_by_anchor(image, 2)
        anchors = torch.stack([each[4] for each in every])
        matched = torch.full((len(every),), -1)
        if len(boxes):
            low, high = (
                torch.maximum(boxes[:, None, :2], anchors[:, :2]),
                torch.minimum(boxes[:, None, 2:], anchors[:, 2:]),
            )
            common = (high - low).clamp(min=0).prod(dim=2)
            overlaps = common / (
                (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)[:, None]
                + (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
                - common
            )
            matched[overlaps.amax(dim=0) >= 0.3] = -2
            for number, row in enumerate(overlaps):
                matched[(row >= 0.7) & (row == overlaps.amax(dim=0))] = number
            for number, row in enumerate(overlaps):
                if row.max() >= 0.3:
                    matched[row == row.max()] = number
        allowed = [at for at, each in enumerate(every) if each[1][0] < size[0] and each[1][1] < size[1]]
        positive = [at for at in allowed if matched[at] >= 0]
        assert len(positive) <= 4
        negative = [at for at in allowed if matched[at] == -1]
        wanted = 8 - len(positive)
        if len(negative) > wanted:
            negative = [negative[at * len(negative) // wanted] for at in range(wanted)]
        count += max(len(positive), 1) + max(len(negative), 1)
        class_loss += sum(math.log(1 + math.exp(-every[at][2])) for at in positive)
        class_loss += sum(math.log(1 + math.exp(every[at][2])) for at in negative)
        for at in positive:
            truth = encode(anchors[at][None], boxes[matched[at]][None], (1, 1, 1, 1))[0]
            box_loss += (every[at][3] - truth).abs().sum().item()
    assert box_loss > 0
    found = rpn_losses(*answers(), objects, sizes, model)
    assert [each.item() for each in found] == pytest.approx([class_loss / count, box_loss / count], rel=1e-5)


def test_regions_are_pooled_from_the_level_of_their_size():
    pyramid = [torch.full((2, 1, 4096 // stride, 4096 // stride), float(stride)) for stride in (4, 8, 16, 32, 64)]
    sides = (10.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 2000.0)
    regions = with_image_index(
        [torch.zeros(0, 4), torch.tensor([[50.0, 9, 50 + side / 2, 9 + 2 * side] for side in sides])]
    )
    assert regions[:, 0].tolist() == [1] * 8
    assert pool(pyramid, regions, 3, 56)[:, 0, 1, 1].tolist() == [4, 4, 8, 8, 16, 16, 32, 32]


def test_the_bins_of_a_region_are_averages_around_their_middles():
    place = torch.arange(40) + 0.5  # of a feature's middle, in features
    features = torch.stack((place.expand(40, 40), place[:, None].expand(40, 40)))[None]
    pooled = pool([features] * 4, torch.tensor([[0.0, 8, 16, 40, 32]]), 2, 56)
    assert pooled[0, 0].tolist() == [[4, 8]] * 2  # a quarter of 16 and 32
    assert pooled[0, 1].tolist() == [[5, 5], [7, 7]]


def stage_of(regions: int, classes: int, agnostic: bool) -> StageAnswers:
    corners = 30 * torch.rand(regions, 2)
    boxes = torch.cat((corners, corners + 5 + 20 * torch.rand(regions, 2)), dim=1)
    deltas = torch.randn(regions, 1 if agnostic else classes, 4)
    return StageAnswers(with_image_index([boxes[:4], boxes[4:]]), torch.randn(regions, classes + 1), deltas)


def sampled_of(stage: StageAnswers) -> list[Sampled]:
    """Three positives, the last an object's own box, and background."""
    boxes = stage.regions[:4, 1:]
    first = Sampled(boxes, torch.tensor([2, 0, 3, 3]), torch.tensor([0, 1]), boxes[:2] + 2, torch.tensor([False, True]))
    boxes = stage.regions[4:, 1:]
    return [first, Sampled(boxes, torch.tensor([1, 3]), torch.tensor([0]), boxes[:1] - 1, torch.tensor([False]))]


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "giou"])
def test_a_stages_losses_are_weighted_means_over_all_samples(kind, agnostic):
    torch.manual_seed(1)
    stage = stage_of(6, 3, agnostic)
    model = Model(box_loss=kind, box_class_weight=1.5, box_loss_weight=2.5, box_stage_weights=(1.0, 0.5, 0.25))
    model.box_stds = (STDS, (0.05, 0.05, 0.1, 0.1), STDS)
    sampled = sampled_of(stage)
    labels, stds = [2, 0, 3, 3, 1, 3], model.box_stds[1]
    class_loss = -stage.logits.log_softmax(dim=1)[range(6), labels].sum() / 6
    box_loss = torch.zeros(())
    for row, truth in zip((0, 1, 4), torch.cat([each.true_boxes for each in sampled]), strict=True):
        deltas, box = stage.deltas[row, 0 if agnostic else labels[row]][None], stage.regions[row, 1:][None]
        if kind == "giou":
            box_loss = box_loss + generalized_box_iou_loss(decode(box, deltas, stds), truth[None]).sum()
        else:
            box_loss = box_loss + LOSSES[kind](deltas, encode(box, truth[None], stds), reduction="sum")
    found = box_losses(stage, sampled, 1, model)
    torch.testing.assert_close(torch.stack(found), torch.stack((0.5 * 1.5 * class_loss, 0.5 * 2.5 * box_loss / 6)))


@pytest.mark.parametrize("agnostic", [True, False])
def test_the_next_stage_learns_from_moved_samples_without_the_objects_own_boxes(agnostic):
    torch.manual_seed(2)
    stage, sizes = stage_of(6, 3, agnostic), [(40, 30), (35, 45)]
    stage.logits[:, 3] += 5  # the background is likeliest
    labels = [2, 0, 3, 3, 1, 3]
    moved = []
    for row, label in enumerate(labels):
        column = 0 if agnostic else int(stage.logits[row, :3].argmax()) if label == 3 else label
        box = decode(stage.regions[row, 1:][None], stage.deltas[row, column][None], STDS)
        moved.append(clip(box, sizes[row // 4])[0])
    first, second = next_proposals(stage, sampled_of(stage), sizes, STDS)
    torch.testing.assert_close(first, torch.stack([moved[row] for row in (0, 2, 3)]))
    torch.testing.assert_close(second, torch.stack(moved[4:]))


@pytest.mark.parametrize("agnostic", [True, False])
@pytest.mark.parametrize(
    ("pixels", "kind"), [("photograph", torch.float32), ("input", torch.float32), ("input", torch.bfloat16)]
)
def test_detections_are_the_last_stages_boxes_with_all_stages_scores(pixels, kind, agnostic):
    torch.manual_seed(3)
    config = Config(test=Inference(nms_in=pixels, nms=0.3, score_threshold=0.2, max_instances=5))
    config.model.box_stds = (STDS, (0.5, 0.5, 0.3, 0.3))
    stages = [stage_of(9, 3, agnostic) for _ in range(2)]
    for stage in stages:
        stage.logits = stage.logits.to(kind)
    scale = scale_of(Prepared(torch.zeros(3, 64, 64), (80, 25), (40, 50)))
    assert scale.tolist() == [2, 0.5, 2, 0.5]
    found = detections(stages, (40, 50), scale, config)
    probabilities = ((stages[0].logits.float() + stages[1].logits.float()) / 2).softmax(dim=1)
    boxes, scores, labels = [], [], []
    for row, label in product(range(9), range(3)):
        if probabilities[row, label] > 0.2:
            moves = stages[1].deltas[row, 0 if agnostic else label]
            box = decode(stages[1].regions[row, 1:][None], moves[None], (0.5, 0.5, 0.3, 0.3))
            boxes.append(clip(box, (40, 50))[0])
            scores.append(probabilities[row, label])
            labels.append(label)
    inside = torch.stack(boxes)
    outside = inside / scale
    kept = batched_nms(outside if pixels == "photograph" else inside, torch.stack(scores), torch.tensor(labels), 0.3)
    assert 5 < len(kept) < len(boxes)
    torch.testing.assert_close(found.boxes, outside[kept[:5]])
    torch.testing.assert_close(found.input_boxes, inside[kept[:5]])
    torch.testing.assert_close(found.scores, torch.stack(scores)[kept[:5]])
    assert found.labels.tolist() == [labels[at] for at in kept[:5]]
