"""From scores to boxes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glip.boxes import iou
from glip.postprocess import Candidates, best, nms_by_label, phrase_scores, phrase_tokens

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


@given(boxes)
def test_nms_by_label(rows):
    scores = torch.arange(len(rows), 0, -1).float() / 20
    found = Candidates(
        torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows]).reshape(-1, 4).float(),
        scores,
        torch.tensor([row[4] for row in rows], dtype=torch.int64),
    )
    kept = []
    for index in range(len(rows)):  # they come best first
        rivals = [other for other in kept if found.labels[other] == found.labels[index]]
        if all(iou(found.boxes[[index]], found.boxes[[other]])[0, 0] <= 0.6 for other in rivals):
            kept.append(index)
    assert nms_by_label(found, 0.6, extent=1).tolist() == kept


def test_those_that_score_as_high_as_the_last_stay_too():
    scores = torch.tensor([0.9, 0.5, 0.5, 0.4])
    found = Candidates(torch.zeros(4, 4), scores, torch.zeros(4, dtype=torch.int64))
    assert best(found, torch.arange(4), 2).scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
