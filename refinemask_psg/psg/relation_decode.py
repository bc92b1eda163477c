"""Logits of all pairs -> the relations of one image, best first."""

import torch
from torch import Tensor

from refinemask_psg.psg.results import Relation


def ranking(logits: Tensor, scores: Tensor) -> Tensor:
    """Logits [P, E, E] and the segments' scores [E] -> what relations are ranked by, as a logarithm [P, E, E].

    It is exp(logit) * score of the subject * score of the object; its logarithm cannot overflow.
    """
    certain = scores.to(torch.float32).log()
    ranks = logits.to(torch.float32) + certain[None, :, None] + certain[None, None, :]
    itself = torch.eye(len(scores), dtype=torch.bool, device=logits.device)
    return ranks.masked_fill(itself, -torch.inf)  # nothing is related to itself


def best_relations(ranks: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The best triplets (subject, object, predicate) [K, 3] and their ranks [K]."""
    predicates, entities, _ = ranks.shape
    found = ranks.flatten().topk(min(limit, predicates * entities * max(entities - 1, 0)))
    predicate, pair = found.indices // entities**2, found.indices % entities**2
    return torch.stack((pair // entities, pair % entities, predicate), dim=1), found.values


def relations_from(logits: Tensor, scores: Tensor, limit: int) -> list[Relation]:
    """One image's relations, best first; their scores are the ranks brought to 0..1."""
    triplets, ranks = best_relations(ranking(logits, scores), limit)
    return [
        Relation(subject, target, predicate, score)
        for (subject, target, predicate), score in zip(triplets.tolist(), ranks.sigmoid().tolist(), strict=True)
    ]
