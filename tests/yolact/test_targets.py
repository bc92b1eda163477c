"""Matching: every object its own prior, crowds, empty images."""

import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from yolact.boxes import decode, make_priors, to_corners
from yolact.config import VARIANTS, Losses
from yolact.targets import BACKGROUND, NEUTRAL, match, own_priors

PRIORS = make_priors(VARIANTS["shapes"].model)
NO_BOXES = torch.zeros(0, 4)


def one_pair_at_a_time(overlaps: torch.Tensor) -> list[int]:
    """What `own_priors` says it does, step by step."""
    remaining, own = overlaps.clone(), [-1] * len(overlaps)
    for _ in own:
        best, prior = remaining.max(dim=1)
        row = int(best.argmax())
        own[row] = int(prior[row])
        remaining[:, own[row]] = -1
        remaining[row] = -1
    return own


@given(st.integers(1, 12), st.integers(0, 40), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=200)
def test_own_priors_are_given_away_best_first(objects, more, levels, seed):
    generator = torch.Generator().manual_seed(seed)
    overlaps = torch.randint(0, levels, (objects, objects + more), generator=generator) / levels  # with many ties
    own = own_priors(overlaps).tolist()
    assert own == one_pair_at_a_time(overlaps)
    assert len(set(own)) == objects


def test_a_prior_is_excused_by_more_than_the_share_in_a_crowd_not_by_as_much():
    crowd, just_half = torch.tensor([[0.0, 0.0, 0.5, 1.0]]), torch.tensor([[0.5, 0.5, 0.25, 0.25]])
    found = match(NO_BOXES, torch.zeros(0, dtype=torch.int64), crowd, just_half, Losses(crowd_overlap=0.5))
    assert found.classes.tolist() == [BACKGROUND]


@given(st.integers(0, 4), st.integers(0, 2), st.integers(0, 10**6))
@settings(max_examples=60)
def test_every_prior_is_decided_as_one_at_a_time_would_be(objects, crowds, seed):
    generator = torch.Generator().manual_seed(seed)

    def corners(count: int) -> torch.Tensor:
        first = torch.rand(count, 2, generator=generator) * 0.7
        return torch.cat((first, first + 0.05 + 0.25 * torch.rand(count, 2, generator=generator)), dim=1)

    priors = torch.cat((torch.rand(60, 2, generator=generator), torch.rand(60, 2, generator=generator) / 2 + 0.05), 1)
    boxes, crowd, labels = corners(objects), corners(crowds), torch.randint(0, 5, (objects,), generator=generator)
    limits = Losses(positive_iou=0.4, negative_iou=0.2, crowd_overlap=0.3)
    found = match(boxes, labels, crowd, priors, limits)
    assert found.deltas.isfinite().all()
    places = to_corners(priors)
    overlaps = torchvision.ops.box_iou(boxes, places)
    owners = one_pair_at_a_time(overlaps)
    for prior, place in enumerate(places):
        label = BACKGROUND
        if objects:
            own = prior in owners
            nearest = owners.index(prior) if own else int(overlaps[:, prior].argmax())
            best = overlaps[nearest, prior]
            assert found.objects[prior] == nearest
            label = int(labels[nearest]) + 1 if own or best >= 0.4 else NEUTRAL if best >= 0.2 else BACKGROUND
            decoded = decode(found.deltas[prior], priors[prior])
            torch.testing.assert_close(decoded, boxes[nearest], rtol=1e-4, atol=1e-5)
        for region in crowd:
            low, high = torch.maximum(place[:2], region[:2]), torch.minimum(place[2:], region[2:])
            inside = (high - low).clamp(min=0).prod() / (place[2:] - place[:2]).prod()
            label = NEUTRAL if inside > 0.3 and label == BACKGROUND else label
        assert found.classes[prior] == label
