"""Scores of scene graphs, against counting by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refinemask_psg.psg.metrics import (
    KS,
    Found,
    Graph,
    final_score,
    iou,
    matches,
    recall_of,
    recalls,
    united,
    without_duplicates,
)


def graph(labels, rows, triplets):
    """Segments that are rows of a small map."""
    masks = np.zeros((len(labels), 8, 1), bool)
    for mask, (begin, end) in zip(masks, rows, strict=True):
        mask[begin:end] = True
    return Graph(np.array(labels), masks, np.array(triplets, np.int64).reshape(-1, 3))


TRUTH = graph([0, 1, 2], [(0, 4), (4, 6), (6, 8)], [[0, 1, 5], [1, 2, 6]])


def test_a_relation_needs_both_regions_and_all_three_classes():
    found = graph([0, 1, 1], [(0, 2), (4, 6), (0, 1)], [[0, 1, 5], [0, 1, 6], [2, 1, 5], [1, 0, 5]])
    assert matches(TRUTH, found).tolist() == [[True, False, False, False], [False] * 4]  # IoU 1/2 is enough


def test_as_phrases_subject_and_object_only_overlap_together():
    found = graph([0, 1], [(0, 1), (1, 6)], [[0, 1, 5]])
    assert not matches(TRUTH, found).any()
    assert matches(TRUTH, found, phrases=True).tolist() == [[True], [False]]


@settings(max_examples=40)
@given(st.integers(0, 2**31 - 1))
def test_recall_agrees_with_counting(seed):
    random = np.random.default_rng(seed)

    def made(count, relations):
        masks = random.random((count, 5, 4)) < 0.6
        triplets = np.stack([random.integers(0, high, relations) for high in (count, count, 2)], axis=1)
        return Graph(random.integers(0, 2, count), masks, triplets)

    true, found = made(4, 6), made(5, 70)

    def overlap(a, b):
        union = (a | b).sum()
        return union > 0 and (a & b).sum() / union >= 0.5

    for column, k in enumerate(KS):
        hits = []
        for subject, target, predicate in true.triplets:
            hits.append(
                any(
                    p == predicate
                    and found.labels[s] == true.labels[subject]
                    and found.labels[o] == true.labels[target]
                    and overlap(found.regions[s], true.regions[subject])
                    and overlap(found.regions[o], true.regions[target])
                    for s, o, p in found.triplets[:k]
                )
            )
        assert recall_of(true, found).hits[:, column].tolist() == hits


def test_boxes_overlap_as_areas():
    a, b = np.array([[0.0, 0, 4, 4], [0, 0, 0, 0]]), np.array([[2.0, 0, 6, 4], [0, 0, 4, 4]])
    assert iou(a, b).tolist() == [[pytest.approx(1 / 3), 1.0], [0.0, 0.0]]
    assert united(np.array([[a[0], b[0]]])).tolist() == [[0, 0, 6, 4]]


def test_mean_recall_averages_images_then_predicates():
    def image(predicates, found):
        return Found(np.array(predicates), np.array(found, bool)[:, None].repeat(3, axis=1))

    images = [image([0, 0, 1], [1, 0, 1]), image([0], [1]), image([], np.zeros(0))]
    summed = recalls(images, predicates=4)
    assert summed.per_predicate[:, 0].tolist() == [(0.5 + 1) / 2, 1.0, 0.0, 0.0]
    assert summed.summary()["R@20"] == pytest.approx((2 / 3 + 1) / 2)
    assert summed.summary()["mR@20"] == pytest.approx((0.75 + 1) / 4)
    assert summed.occurs.tolist() == [True, True, False, False]


def test_no_image_at_all_scores_nothing():
    assert recalls([], predicates=3).summary()["mR@100"] == 0.0


def test_duplicates_go_and_the_order_stays():
    assert without_duplicates(np.array([[2, 1, 0], [0, 1, 2], [2, 1, 0]])).tolist() == [[2, 1, 0], [0, 1, 2]]


def test_the_final_score_is_the_challenges():
    assert final_score({"R@20": 0.5, "mR@20": 0.25, "PQ": 0.4}) == pytest.approx(0.15 + 0.15 + 0.04)
