"""From answers to instances, on three priors whose boxes are binary fractions."""

import pytest
import torch

from yolact.config import Config
from yolact.config import Inference as Settings
from yolact.postprocess import Detections, assemble, best_of_each_level, boxes_in_pixels, detect, instances_from_answers

PRIORS = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.75, 0.25, 0.25, 0.5], [0.5, 0.75, 0.5, 0.25]])
BOXES = torch.tensor([[0.125, 0.125, 0.375, 0.375], [0.625, 0.0, 0.875, 0.5]])
LOGITS = torch.tensor([[0.1, 0.7, 0.2], [0.3, 0.1, 0.6], [0.96, 0.03, 0.01]]).log()  # background and two classes
SCORES = LOGITS.softmax(dim=1)
COEFFICIENTS = torch.tensor([[1.0, 2.0], [3.0, -4.0], [5.0, 6.0]])
FOUND = [(0, 0, 0.7), (1, 1, 0.6), (0, 1, 0.2), (1, 0, 0.1)]  # prior, class, score


def found(test: Settings) -> Detections:
    return detect(LOGITS, torch.zeros(3, 4), COEFFICIENTS, PRIORS, Config(test=test))


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (Settings(iou_threshold=0.3), FOUND),
        (Settings(iou_threshold=0.3, nms="traditional"), FOUND),
        (Settings(iou_threshold=0.3, nms="cross_class"), FOUND[:2]),
        (Settings(max_instances=3), FOUND[:3]),
        (Settings(max_instances=3, nms="traditional"), FOUND[:3]),
        (Settings(max_instances=1, nms="cross_class"), FOUND[:2]),
        (Settings(top_k=1), FOUND[:2]),
        (Settings(top_k=1, nms="cross_class"), FOUND[:1]),
        (Settings(score_threshold=0.15), FOUND),
        (Settings(score_threshold=0.15, threshold_after_nms=True), FOUND[:3]),
        (Settings(score_threshold=0.15, nms="traditional"), FOUND[:3]),
        (Settings(score_threshold=SCORES[1, 2].item()), [FOUND[0], FOUND[2]]),  # not more than the threshold: out
        (Settings(min_score=SCORES[0, 2].item()), FOUND[:2]),
    ],
)
def test_each_setting_leaves_these(test, expected):
    boxes, scores, labels, coefficients = found(test)
    priors = [prior for prior, _, _ in expected]
    assert torch.equal(boxes, BOXES[priors])
    assert labels.tolist() == [label for _, label, _ in expected]
    assert scores.tolist() == pytest.approx([score for _, _, score in expected])
    assert torch.equal(coefficients, COEFFICIENTS[priors])


def test_mmdetection_looks_at_each_level_and_clips_stretches_and_corners():
    config = Config(test=Settings(level_candidates=1, clip_boxes=True, score_threshold=0.5))
    config.model.input_size, config.model.aspect_ratios = 8, (1.0,)  # five levels of one prior
    priors = torch.cat((PRIORS, torch.tensor([[0.5, 0.5, 0.005, 0.5], [0.95, 0.5, 0.2, 0.2]])))
    deltas = torch.zeros(5, 4)
    deltas[3, 2] = 100.0  # to 1000 / 16 times the width, no more
    logits = torch.tensor([[0.0, 5 - number, -9.0] for number in range(5)])
    boxes = detect(logits, deltas, torch.zeros(5, 2), priors, config).boxes[:5]
    assert torch.equal(boxes[:2], BOXES)
    assert boxes[3].tolist() == pytest.approx([0.5 - 0.15625, 0.25, 0.5 + 0.15625, 0.75])
    assert boxes[4].tolist() == pytest.approx([0.85, 0.4, 1.0, 0.6])


def test_the_best_of_each_level():
    best = torch.tensor([0.1, 0.9, 0.5, 0.8, 0.2, 0.7])
    assert best_of_each_level(best, [3, 2, 1], 2).tolist() == [1, 2, 3, 4, 5]


def test_masks_are_prototypes_times_coefficients_within_a_pixel_of_the_box():
    prototypes = torch.arange(48.0).reshape(4, 6, 2) / 48 - 0.4
    soft = assemble(prototypes, found(Settings(max_instances=2)))
    for mask, (x1, y1, x2, y2), weights in zip(soft, BOXES.tolist(), COEFFICIENTS, strict=False):
        for row in range(4):
            for column in range(6):
                inside = x1 * 6 - 1 <= column < x2 * 6 + 1 and y1 * 4 - 1 <= row < y2 * 4 + 1
                expected = (prototypes[row, column] * weights).sum().sigmoid().item() if inside else 0.0
                assert mask[row, column].item() == pytest.approx(expected)


def test_corners_in_pixels_are_cut_where_asked():
    boxes = torch.tensor([[0.113, 0.267, 0.5611, 0.9094]])
    assert boxes_in_pixels(boxes, (100, 200), False)[0].tolist() == pytest.approx([22.6, 26.7, 112.22, 90.94])
    assert boxes_in_pixels(boxes, (100, 200), True)[0].tolist() == [22, 26, 112, 90]


@pytest.mark.parametrize(("drop", "count"), [(True, 4), (False, 6)])
@pytest.mark.parametrize("emptied", [(0, 20.0), (2, -200.0)], ids=["moved right by a picture's width", "no width"])
def test_a_mask_scores_as_its_class_is_rated_and_a_box_outside_or_empty_may_go(drop, count, emptied):
    config = Config(test=Settings(drop_empty_boxes=drop, score_threshold=0.02))
    deltas = torch.zeros(3, 4)
    deltas[2, emptied[0]] = emptied[1]
    result = instances_from_answers(
        LOGITS,
        deltas,
        COEFFICIENTS,
        torch.ones(8, 8, 2),
        PRIORS,
        lambda masks: torch.tensor([[0.5, 0.25]]).expand(len(masks), 2),
        (80, 160),
        config,
        ("a", "b"),
    )
    assert result.boxes[:2].tolist() == [[20, 10, 60, 30], [100, 0, 140, 40]]
    assert result.mask_scores[:4].tolist() == pytest.approx([0.35, 0.15, 0.05, 0.05])
    assert len(result) == len(result.masks) == count
    assert result.masks[0, 15:25, 30:50].all()
    assert not result.masks[1].any()  # 3 - 4 is below 0
