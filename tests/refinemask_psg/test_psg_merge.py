"""Merging the semantic map and instances, and the entities and relations that come of it."""

import math

import pytest
import torch
import torch.nn.functional as F

from common.data.batches import Prepared
from common.results import Instances
from refinemask_psg.psg import panoptic_merge
from refinemask_psg.psg.panoptic_merge import (
    VOID,
    SemanticMap,
    entities,
    entity_masks,
    merge,
    panoptic,
    semantic_map,
    visiting_order,
)
from refinemask_psg.psg.relation_head import best_relations, ranking, relations_from

CLASSES, THINGS = 6, 4
NAMES = ("a", "b", "c", "d", "sky", "sea")


def stuff(labels, scores=0.5):
    labels = torch.tensor(labels)
    return SemanticMap(labels, torch.full(labels.shape, scores))


def found_instances(masks, labels, scores):
    masks = torch.tensor(masks, dtype=torch.bool)
    size = (masks.shape[1], masks.shape[2])
    return Instances(torch.tensor(scores), torch.tensor(labels), torch.zeros(len(labels), 4), masks, size, NAMES)


SKY_AND_SPARE = stuff([[4, 4, 4, 4], [2, 2, 6, 6]])


def test_only_stuff_is_painted_of_the_semantic_map():
    nothing = found_instances([[[0] * 4] * 2], [0], [0.1])
    merged = merge(SKY_AND_SPARE, nothing, THINGS, 0.3)
    assert merged.ids.tolist() == [[4, 4, 4, 4], [VOID, VOID, 6, 6]]
    assert merged.scores.tolist() == [[0.5] * 4, [0, 0, 0.5, 0.5]]
    ids, scores = entities(merged, CLASSES)
    assert ids.tolist() == [4]
    result = panoptic(merged, ids, scores, THINGS, NAMES)
    assert result.segments.tolist() == [[4, 4, 4, 4], [0, 0, 0, 0]]


LARGE, SMALL = [[1, 1, 1, 0], [0, 0, 0, 0]], [[0, 0, 1, 1], [0, 0, 0, 0]]


def test_the_smallest_instance_is_on_top_and_keeps_its_score():
    instances = found_instances([SMALL, LARGE, LARGE], [1, 0, 3], [0.9, 0.8, 0.2])
    merged = merge(SKY_AND_SPARE, instances, THINGS, 0.3)
    assert merged.ids[0].tolist() == [1000, 1000, 2001, 2001]  # class by class; the third scores too little
    assert merged.scores[0].tolist() == pytest.approx([0.8, 0.8, 0.9, 0.9])
    ids, scores = entities(merged, CLASSES)
    assert ids.tolist() == [1000, 2001]
    assert scores.tolist() == pytest.approx([0.8, 0.9])
    infos = panoptic(merged, ids, scores, THINGS, NAMES).infos
    assert [(info.label, info.is_thing) for info in infos] == [(0, True), (1, True)]


def test_the_original_gives_all_things_the_score_of_the_last_visited():
    instances = found_instances([SMALL, LARGE, LARGE], [1, 0, 3], [0.9, 0.8, 0.2])
    merged = merge(SKY_AND_SPARE, instances, THINGS, 0.3, original_faults=True)
    assert merged.ids[0].tolist() == [1000, 1000, 2001, 2001]
    assert merged.scores[0].tolist() == pytest.approx([0.2] * 4)  # skipped, but visited


def test_one_after_the_other_the_last_is_on_top():
    instances = found_instances([SMALL, LARGE], [0, 1], [0.9, 0.8])
    merged = merge(SKY_AND_SPARE, instances, THINGS, 0.3, by_area=False)
    assert merged.ids[0].tolist() == [2001, 2001, 2001, 1000]


def test_instances_are_visited_class_by_class():
    labels = torch.tensor([2, 0, 2, 2, 0, 2])
    assert visiting_order(labels, original_faults=False).tolist() == [1, 4, 0, 2, 3, 5]
    assert visiting_order(labels, original_faults=True).tolist() == [1, 4, 0, 5, 3, 2]
    assert visiting_order(torch.tensor([0, 1, 1, 1]), original_faults=True).tolist() == [0, 1, 3, 2]
    assert visiting_order(labels[:0], original_faults=True).tolist() == []


@pytest.mark.parametrize("strip", [1, 400, 2**24])
def test_the_semantic_map_is_enlarged_in_strips_as_at_once(monkeypatch, strip):
    monkeypatch.setattr(panoptic_merge, "STRIP_VALUES", strip)
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 8, 16)
    prepared = Prepared(torch.zeros(3, 32, 64), (45, 77), (30, 51))
    found = semantic_map(logits, prepared)
    padded = F.interpolate(logits[None], (32, 64), mode="bilinear", align_corners=False)
    whole = F.interpolate(padded[..., :30, :51], (45, 77), mode="bilinear", align_corners=False)[0].softmax(dim=0)
    torch.testing.assert_close(found.scores, whole.max(dim=0).values)
    assert (found.labels == whole.argmax(dim=0)).float().mean() > 0.999


def test_entity_masks_follow_the_way_of_the_image():
    segments = torch.full((20, 40), 4)
    segments[:10] = 2001
    prepared = Prepared(torch.zeros(3, 32, 64), (20, 40), (30, 60))
    masks = entity_masks(segments, torch.tensor([4, 2001]), prepared, (8, 16))
    assert masks.shape == (2, 8, 16)
    assert masks[1].sum() == 4 * 15  # rows 0, 4, 8, 12 of 15; columns up to 56 of 60
    assert not masks[:, :, 15].any()  # padding


# --- decoding


def test_relations_are_ranked_by_logit_and_segment_scores():
    torch.manual_seed(0)
    logits, scores = torch.randn(3, 4, 4), torch.tensor([0.9, 0.5, 0.7, 0.4])
    expected = [
        (math.exp(float(logits[p, s, o])) * float(scores[s]) * float(scores[o]), [s, o, p])
        for p in range(3)
        for s in range(4)
        for o in range(4)
        if s != o
    ]
    expected.sort(reverse=True)
    triplets, ranks = best_relations(ranking(logits, scores), 20)
    assert triplets.tolist() == [triplet for _, triplet in expected[:20]]
    torch.testing.assert_close(ranks.exp(), torch.tensor([value for value, _ in expected[:20]]))


def test_scores_of_relations_are_probabilities_where_segments_are_sure():
    logits = torch.tensor([[[0.0, 2.0], [-1.0, 0.0]]])
    found = relations_from(logits, torch.ones(2), 20)
    assert [(each.subject, each.object) for each in found] == [(0, 1), (1, 0)]  # none with itself
    assert [each.score for each in found] == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))])


def test_huge_logits_keep_their_order():
    logits = torch.tensor([[[0.0, 200.0], [300.0, 0.0]]])  # exp would overflow
    found = relations_from(logits, torch.ones(2), 1)
    assert (found[0].subject, found[0].object) == (1, 0)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_segments_have_no_relation(count):
    assert relations_from(torch.zeros(3, count, count), torch.ones(count), 20) == []
