"""From scores to boxes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from common.data.batches import Prepared
from glip.boxes import anchors_of, clip, decode, iou
from glip.config import Inference as Settings
from glip.dynamic_head import Answers
from glip.postprocess import Candidates, best, detections, instances, nms_by_label, phrase_scores, phrase_tokens

CPU = torch.device("cpu")


def test_a_phrase_scores_as_its_tokens_do():
    logits = torch.tensor([[0.0, 2.0, -2.0, 4.0]])
    p = logits.sigmoid()[0].tolist()
    tokens = phrase_tokens([[1], [0, 2], []], 4, CPU)
    assert phrase_scores(logits, tokens, "mean")[0].tolist() == pytest.approx([p[1], (p[0] + p[2]) / 2, 0])
    assert phrase_scores(logits, tokens, "max")[0].tolist() == pytest.approx([p[1], p[0], 0])
    assert phrase_scores(logits, tokens, "onehot")[0].tolist() == pytest.approx(p[:3])


def test_tokens_that_a_cut_caption_has_lost_do_not_count():
    logits = torch.tensor([[0.0, 3.0]])
    assert phrase_scores(logits, phrase_tokens([[1, 2, 300]], 2, CPU), "mean")[0, 0] == logits.sigmoid()[0, 1]


boxes = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2)),
    min_size=0,
    max_size=12,
)


@given(boxes, st.sampled_from([0, 1]))
def test_nms_by_label(rows, extent):
    scores = torch.arange(len(rows), 0, -1).float() / 20
    found = Candidates(
        torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows]).reshape(-1, 4).float(),
        scores,
        torch.tensor([row[4] for row in rows], dtype=torch.int64),
    )
    kept = []
    for index in range(len(rows)):  # they come best first
        rivals = [other for other in kept if found.labels[other] == found.labels[index]]
        ends = found.boxes + torch.tensor([0, 0, extent - 1, extent - 1])
        if not any(iou(ends[[index]], ends[[other]])[0, 0] > 0.6 for other in rivals):
            kept.append(index)
    assert nms_by_label(found, 0.6, extent).tolist() == kept


def test_those_that_score_as_high_as_the_last_stay_too():
    scores = torch.tensor([0.9, 0.5, 0.5, 0.4])
    found = Candidates(torch.zeros(4, 4), scores, torch.zeros(4, dtype=torch.int64))
    assert best(found, torch.arange(4), 2).scores.tolist() == pytest.approx([0.9, 0.5, 0.5])


@pytest.mark.parametrize("conventions", ["microsoft", "mmdetection"])
def test_detections_are_what_scores_best_at_each_place_in_each_librarys_order(conventions):
    torch.manual_seed(0)
    sizes = [(3, 4), (2, 2), (1, 2), (1, 1), (1, 1)]
    answers = Answers(
        [torch.randn(2, height * width, 5) for height, width in sizes],
        [2 * torch.randn(2, 4, *size) for size in sizes],
        [torch.randn(2, 1, *size) for size in sizes],
        torch.zeros(2, 5, 8),
    )
    prepared = Prepared(torch.zeros(3, 64, 64), (25, 80), (50, 40))  # half as high and twice as wide
    test = Settings(conventions, score_threshold=0.5, max_candidates=7, nms_iou=0.3, max_detections=6)
    phrases = [[0, 3], [1], [4]]
    found = detections(answers, 1, phrase_tokens(phrases, 5, CPU), prepared, 2.0, test)
    rows = []
    for level, (anchors, (_, width)) in enumerate(zip(anchors_of(sizes, 2.0, CPU), sizes, strict=True)):
        own = []
        for place, anchor in enumerate(anchors):
            y, x = divmod(place, width)
            for label, phrase in enumerate(phrases):
                score = answers.token_logits[level][1, place, phrase].sigmoid().mean().item()
                value = score * answers.centerness[level][1, 0, y, x].sigmoid().item()
                box = clip(decode(answers.deltas[level][1, :, y, x][None], anchor[None]), 50, 40)[0]
                if score > 0.5:
                    own.append((score if conventions == "mmdetection" else value, value**0.5, label, box))
        rows += sorted(own, key=lambda row: -row[0])[:7]
    scale = torch.tensor([2, 0.5, 2, 0.5])
    if conventions == "mmdetection":
        rows = [row for row in rows if (row[3][2:] > row[3][:2]).all()]
    rows = sorted(rows, key=lambda row: -row[1])
    measured = [row[3] * scale - torch.tensor([0, 0, 1, 1]) if conventions == "mmdetection" else row[3] for row in rows]
    kept = []
    for at, row in enumerate(rows):
        rivals = [other for other in kept if rows[other][2] == row[2]]
        if not any(iou(measured[at][None], measured[other][None])[0, 0] > 0.3 for other in rivals):
            kept.append(at)
    assert 6 < len(kept) < len(rows)
    torch.testing.assert_close(found.boxes, torch.stack([rows[at][3] for at in kept[:6]]) * scale)
    assert found.scores.tolist() == pytest.approx([rows[at][1] for at in kept[:6]])
    assert found.labels.tolist() == [rows[at][2] for at in kept[:6]]


def test_boxes_without_area_are_no_detections_of_mmdetections():
    deltas = torch.zeros(1, 4, 1, 1)
    deltas[0, 0] = 50.0  # beyond the right border, where clipping leaves no width
    sizes = [(1, 1)] * 5
    answers = Answers([torch.ones(1, 1, 1)] * 5, [deltas] * 5, [torch.ones(1, 1, 1, 1)] * 5, torch.zeros(1, 1, 8))
    prepared, tokens = Prepared(torch.zeros(3, 64, 64), (64, 64), (64, 64)), phrase_tokens([[0]], 1, CPU)
    assert len(sizes) > len(detections(answers, 0, tokens, prepared, 2.0, Settings()).boxes) > 0
    assert not len(detections(answers, 0, tokens, prepared, 2.0, Settings("mmdetection")).boxes)


def test_findings_of_several_captions_are_one_result_best_first():
    first = Candidates(torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 6]]), torch.tensor([0.9, 0.3]), torch.tensor([0, 1]))
    second = Candidates(torch.tensor([[2.0, 2, 3, 3]]), torch.tensor([0.5]), torch.tensor([2]))
    result = instances([first, second], Prepared(torch.zeros(3, 8, 8), (9, 7), (8, 8)), ("a", "b", "c"))
    assert result.boxes.tolist() == [[0, 0, 5, 5], [2, 2, 4, 4], [1, 1, 6, 7]]
    assert result.labels.tolist() == [0, 2, 1]
    assert result.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert result.size == (9, 7)
