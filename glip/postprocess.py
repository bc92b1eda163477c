"""Answers -> boxes with phrases, in the photograph's coordinates."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from common.data.batches import Prepared
from common.ops.precision import widest_float
from common.results import Instances
from glip.boxes import anchors_of, clip, decode
from glip.config import Inference
from glip.dynamic_head import Answers


class Candidates(NamedTuple):
    """Boxes that were found for phrases."""

    boxes: Tensor  # [n, 4]
    scores: Tensor  # [n]
    labels: Tensor  # [n] which phrase


class PhraseTokens(NamedTuple):
    """Which tokens a caption's phrases have, as many columns as the longest needs."""

    places: Tensor  # [phrases, K] int64
    used: Tensor  # [phrases, K] bool


def phrase_tokens(positions: Sequence[Sequence[int]], length: int, device: torch.device) -> PhraseTokens:
    """From the tokens of each phrase; those that a cut caption of `length` tokens no longer has are left out."""
    kept = [[place for place in phrase if place < length] for phrase in positions]
    longest = max([1, *map(len, kept)])
    places = torch.tensor([phrase + [0] * (longest - len(phrase)) for phrase in kept], device=device)
    counts = torch.tensor([len(phrase) for phrase in kept], device=device)
    return PhraseTokens(places.reshape(-1, longest), torch.arange(longest, device=device) < counts[:, None])


def phrase_scores(token_logits: Tensor, tokens: PhraseTokens, aggregation: str) -> Tensor:
    """[P, T] logits -> [P, phrases] probabilities; a phrase without tokens scores 0."""
    probabilities = token_logits.float().sigmoid()
    if aggregation == "onehot":
        return probabilities[:, : len(tokens.places)]
    own = probabilities[:, tokens.places] * tokens.used  # [P, phrases, K]
    if aggregation == "max":
        return own.amax(dim=2)
    return own.sum(dim=2) / tokens.used.sum(dim=1).clamp(min=1)


def detections(
    answers: Answers,
    row: int,
    tokens: PhraseTokens,
    prepared: Prepared,
    anchor_scale: float,
    settings: Inference,
) -> Candidates:
    """What is found in one image for one caption, best first; boxes end at their last pixel.

    Microsoft's order: boxes are compared in the network's input, ranked with their centerness. MMDetection's:
    ranked without it, and compared in the photograph.
    """
    sizes = [(level.shape[-2], level.shape[-1]) for level in answers.deltas]
    anchors = anchors_of(sizes, anchor_scale, answers.deltas[0].device)
    levels = [
        level_candidates(
            phrase_scores(answers.token_logits[level][row], tokens, settings.aggregation),
            answers.centerness[level][row].float().flatten().sigmoid(),
            answers.deltas[level][row].float().flatten(1).T,
            anchors[level],
            settings,
        )
        for level in range(len(sizes))
    ]
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
    found = Candidates(clip(boxes, *prepared.resized_size), scores, labels)
    to_photograph = boxes.new_tensor(
        [original / resized for original, resized in zip(prepared.original_size, prepared.resized_size, strict=True)]
    ).flip(0)  # x, y
    if settings.conventions == "mmdetection":
        found = with_area(found._replace(boxes=found.boxes * to_photograph.repeat(2)))
        return best(found, nms_by_label(found, settings.nms_iou, extent=0), settings.max_detections)
    found = best(found, nms_by_label(found, settings.nms_iou, extent=1), settings.max_detections)
    return found._replace(boxes=found.boxes * to_photograph.repeat(2))


def level_candidates(
    scores: Tensor, centerness: Tensor, deltas: Tensor, anchors: Tensor, settings: Inference
) -> Candidates:
    """The best pairs of place and phrase of a level: scores [P, phrases], centerness [P], deltas and anchors [P, 4]."""
    places, labels = (scores > settings.score_threshold).nonzero(as_tuple=True)
    values = scores[places, labels] * centerness[places]
    rank = scores[places, labels] if settings.conventions == "mmdetection" else values
    chosen = rank.topk(min(settings.max_candidates, len(rank))).indices
    places = places[chosen]
    return Candidates(decode(deltas[places], anchors[places]), values[chosen].sqrt(), labels[chosen])


def nms_by_label(found: Candidates, threshold: float, extent: int) -> Tensor:
    """Which boxes stay, best first; `extent` is what a box's sides are longer than the difference of its ends."""
    exact = widest_float(found.boxes.device)
    boxes = found.boxes.to(exact) + found.boxes.new_tensor([0, 0, extent, extent])
    shift = (boxes.max() + 1 if len(boxes) else 0) * found.labels.to(exact)  # boxes of other labels lie far apart
    kept: Tensor = nms(boxes + shift[:, None], found.scores.to(exact), threshold)
    return kept


def with_area(found: Candidates) -> Candidates:
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    return select(found, (sides > 0).all(dim=1).nonzero().flatten())


def best(found: Candidates, kept: Tensor, limit: int) -> Candidates:
    """The first `limit` of those kept, and others that score as high as the last."""
    scores = found.scores[kept]
    if len(kept) > limit:
        kept = kept[scores >= scores[limit - 1]]
    return select(found, kept)


def select(found: Candidates, which: Tensor) -> Candidates:
    return Candidates(*(values[which] for values in found))


def instances(found: Sequence[Candidates], prepared: Prepared, names: tuple[str, ...]) -> Instances:
    """The findings of all captions as one result, best first; boxes end after their last pixel, as COCO's do."""
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order] + boxes.new_tensor([0, 0, 1, 1])
    return Instances(scores[order], labels[order], boxes, None, prepared.original_size, names)
