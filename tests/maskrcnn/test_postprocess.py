"""Proposals and detections against the steps written out, one box after the other."""

import pytest
import torch

from common.data.batches import Prepared
from maskrcnn.boxes import clip, decode
from maskrcnn.config import DETECTRON2, MMDETECTION, TORCHVISION, Conventions, Inference, Proposals
from maskrcnn.postprocess import Detections, detect, instances
from maskrcnn.proposals import propose
from tests.maskrcnn.test_boxes import greedy

LIBRARIES = [Conventions(), MMDETECTION, TORCHVISION, DETECTRON2]
SIZES = torch.tensor([[60, 80], [70, 50]])


def corners(count: int) -> torch.Tensor:
    first = 60 * torch.rand(count, 2)
    return torch.cat((first, first + 4 + 30 * torch.rand(count, 2)), dim=1)


def left_of(boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, conventions: Conventions) -> list[int]:
    """What NMS at 0.4 leaves, best first."""
    inclusive = conventions.inclusive_corners
    return greedy(boxes, scores, groups, 0.4, inclusive, at_threshold=conventions.nms == "detectron")


@pytest.mark.parametrize("conventions", LIBRARIES, ids=["detectron", "mmdetection", "torchvision", "detectron2"])
@pytest.mark.parametrize("training", [False, True])
def test_proposals_are_the_best_of_each_level_without_duplicates(conventions, training):
    torch.manual_seed(0)
    shapes = ((3, 4), (2, 2))  # of levels, with two anchors at each place
    logits = [3 * torch.randn(2, 2, *shape) for shape in shapes]
    deltas = [0.3 * torch.randn(2, 8, *shape) for shape in shapes]
    anchors = [corners(2 * height * width) for height, width in shapes]
    if training:
        settings = Proposals(training_before_nms=15, training_after_nms=2, training_kept=7, kept_of_batch=False)
    else:
        settings = Proposals(before_nms=15, after_nms=2, kept=7)
    settings.nms_threshold, settings.smallest = 0.4, 6.0
    inclusive = conventions.inclusive_corners
    found = propose(logits, deltas, anchors, SIZES, settings, conventions, training)
    for image, size in enumerate(SIZES):
        boxes, scores, levels = [], [], []
        for level, (height, width) in enumerate(shapes):
            asked = [
                (logits[level][image, shape, y, x].item(), deltas[level][image, 4 * shape : 4 * shape + 4, y, x])
                for y in range(height)
                for x in range(width)
                for shape in range(2)
            ]
            for at in sorted(range(len(asked)), key=lambda at: -asked[at][0])[:15]:
                box = decode(asked[at][1], anchors[level][at], (1, 1, 1, 1), inclusive, conventions.limit_shrinking)
                box = clip(box, size, inclusive)
                if (box[2:] - box[:2] + inclusive).min() >= 6:
                    boxes.append(box)
                    levels.append(level)
                    scores.append(asked[at][0])
        kept = left_of(torch.stack(boxes), torch.tensor(scores), torch.tensor(levels), conventions)
        if conventions.nms == "detectron":
            kept = [at for place, at in enumerate(kept) if [levels[k] for k in kept[:place]].count(levels[at]) < 2]
        expected = torch.stack(boxes)[kept[:7]]
        torch.testing.assert_close(found[image].boxes, expected)
        ranks = torch.tensor(scores)[kept[:7]]
        torch.testing.assert_close(found[image].scores, ranks if conventions.ranked_by == "logits" else ranks.sigmoid())


@pytest.mark.parametrize(("levels", "counts"), [(1, [1, 1]), (2, [0, 1])])
def test_the_cap_in_training_is_the_batchs_where_there_are_several_levels(levels, counts):
    anchors = [torch.tensor([[0.0, 0, 6, 6]])] * levels
    logits, deltas = [torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)] * levels, [torch.zeros(2, 4, 1, 1)] * levels
    settings = Proposals(training_kept=1, smallest=6.0)  # which they are
    found = propose(logits, deltas, anchors, SIZES, settings, TORCHVISION, training=True)
    assert [len(image.boxes) for image in found] == counts


@pytest.mark.parametrize("conventions", LIBRARIES, ids=["detectron", "mmdetection", "torchvision", "detectron2"])
def test_detections_are_each_class_without_duplicates_and_the_best_of_them(conventions):
    torch.manual_seed(1)
    proposals, logits = corners(30), 2 * torch.randn(30, 4)
    classes = 4 if conventions.background_first else 3
    deltas, weights = torch.randn(30, classes, 4), (10.0, 10.0, 5.0, 5.0)
    test = Inference(score_threshold=0.2, nms_threshold=0.4, max_instances=12)
    inclusive, first = conventions.inclusive_corners, 1 if conventions.background_first else 0
    found = detect(proposals, logits, deltas, SIZES[0], weights, test, conventions)
    probabilities = logits.softmax(dim=1)
    pairs = [(row, label) for row in range(30) for label in range(3) if probabilities[row, label + first] > 0.2]
    boxes = torch.stack(
        [
            decode(deltas[row, label + first], proposals[row], weights, inclusive, conventions.limit_shrinking)
            for row, label in pairs
        ]
    )
    boxes = clip(boxes, SIZES[0], inclusive)
    scores = torch.stack([probabilities[row, label + first] for row, label in pairs])
    labels = torch.tensor([label for _, label in pairs])
    kept = left_of(boxes, scores, labels, conventions)
    assert len(kept) > 12
    kept = kept[:12]
    if conventions.nms == "detectron":
        kept = sorted(kept, key=lambda at: (pairs[at][1], pairs[at][0]))
    torch.testing.assert_close(found.boxes, boxes[kept])
    assert torch.equal(found.labels, labels[kept])
    torch.testing.assert_close(found.scores, scores[kept])


def test_detections_smaller_than_allowed_are_dropped():
    boxes, logits = torch.tensor([[5.0, 5, 9, 9], [5, 5, 9, 8.5]]), torch.tensor([[0.0, 5.0], [0.0, 6.0]])
    convention = Conventions(inclusive_corners=False, smallest_detection=4.0)
    found = detect(boxes, logits, torch.zeros(2, 2, 4), SIZES[0], (1.0, 1.0, 1.0, 1.0), Inference(), convention)
    assert found.boxes.tolist() == [[5, 5, 9, 9]]


@pytest.mark.parametrize(
    ("conventions", "boxes"),
    [
        (Conventions(), [[4, 4, 9, 21], [0, 0, 41, 11], [60, 8, 61, 17]]),
        (MMDETECTION, [[4, 4, 8, 20], [0, 0, 40, 10], [60, 8, 60, 16]]),
        (DETECTRON2, [[4, 4, 8, 20], [0, 0, 30, 10]]),  # clipped once more, the one without width dropped
    ],
    ids=["detectron", "mmdetection", "detectron2"],
)
def test_results_lie_in_the_photograph_best_first(conventions, boxes):
    found = Detections(
        torch.tensor([[0.0, 0, 80, 5], [8, 2, 16, 10], [120, 4, 120, 8]]),
        torch.tensor([0.5, 0.9, 0.3]),
        torch.tensor([1, 0, 2]),
    )
    prepared = Prepared(torch.zeros(3, 32, 64), (40, 30), (20, 60))  # twice as high, half as wide
    soft = torch.ones(3, 28, 28) * torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    result = instances(found, soft, prepared, Inference(), conventions, ("a", "b", "c"))
    assert result.boxes.tolist() == boxes
    assert result.scores.tolist() == pytest.approx([0.9, 0.5, 0.3][: len(boxes)])
    assert result.labels.tolist() == [0, 1, 2][: len(boxes)]
    assert result.masks.any(dim=(1, 2)).tolist() == [True, False, False][: len(boxes)]
    assert instances(found, None, prepared, Inference(), conventions, ("a", "b", "c")).masks is None
