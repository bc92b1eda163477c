"""The relation head: one vector for each segment, BERT among them, and a score for each subject, object, predicate.

- A segment is the mean of the finest pyramid level over its mask plus an embedding of its class: neither its box nor
  any text goes in. BERT (arXiv 1810.04805) serves as a set transformer; every segment has the same position.
- Subject and object vectors of each predicate are multiplied like queries and keys (arXiv 1706.03762, equation 1).
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import needing
from common.ops.precision import full_precision
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.results import Relation

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

POSITION = 1  # the row of BERT's position table that all segments use
SMALL = 1e-8  # keeps counts that are divided by from being 0


class Entities(NamedTuple):
    """The segments of one image, as the relation head takes them."""

    masks: Tensor  # [E, h, w] bool, at the size of the features
    labels: Tensor  # [E] int64


class RelationHead(nn.Module):
    """Segments of images -> a logit for every predicate, subject and object."""

    def __init__(self, settings: Relations, classes: int, channels: int = 256):
        super().__init__()
        self.predicates, self.pair_channels = len(settings.predicates), settings.pair_channels
        hidden, paired = settings.hidden, self.predicates * settings.pair_channels
        self.class_embedding = nn.Embedding(classes, channels)
        self.input = nn.Sequential(nn.Linear(channels, hidden), nn.LayerNorm(hidden))
        self.bert: BertModel | None = None
        self.output: nn.Module = nn.Identity()
        if settings.head == "bert":
            with needing("the relation head", "transformers"):  # not above: who finds objects only can do without
                import transformers
            self.bert = transformers.BertModel(bert_config(settings), add_pooling_layer=False)
            # no words come in: their table would only be in the way of finding unused parameters
            self.bert.set_input_embeddings(None)  # type: ignore[no-untyped-call]
            self.output = nn.Sequential(nn.Linear(hidden, hidden), nn.LayerNorm(hidden))
        self.subject = nn.Linear(hidden, paired)
        self.object = nn.Linear(hidden, paired)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens [B, E, C] of which those `present` [B, E] count -> logits [B, predicates, subjects E, objects E]."""
        vectors = self.input(tokens)
        if self.bert is not None:
            position = torch.full(present.shape, POSITION, dtype=torch.int64, device=tokens.device)
            vectors = self.bert(
                inputs_embeds=vectors,
                attention_mask=present.to(vectors.dtype),
                position_ids=position,
                token_type_ids=torch.zeros_like(position),  # older versions look for as many as there are positions
            )
            vectors = self.output(vectors.last_hidden_state)
        split = (*tokens.shape[:2], self.predicates, self.pair_channels)
        subjects = self.subject(vectors).reshape(split).transpose(1, 2)  # [B, predicates, E, pair channels]
        objects = self.object(vectors).reshape(split).transpose(1, 2)
        logits: Tensor = subjects @ objects.transpose(2, 3) / self.pair_channels**0.5
        return logits

    def tokens(self, feature: Tensor, entities: Entities) -> Tensor:
        """Feature [C, h, w] of one image -> a vector for each of its segments, [E, C]."""
        with full_precision(feature.device):  # sums over a large segment overflow half precision
            feature = feature.to(torch.promote_types(feature.dtype, torch.float32))
            masks = entities.masks.to(feature.dtype)
            # a segment too small to cover a pixel is left with its class
            means = torch.einsum("chw,ehw->ec", feature, masks) / (masks.sum(dim=(1, 2))[:, None] + SMALL)
            embedded: Tensor = means + self.class_embedding(entities.labels)
        return embedded


def bert_config(settings: Relations) -> "BertConfig":
    from transformers import BertConfig

    return BertConfig(
        vocab_size=1,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.attention_heads,
        intermediate_size=settings.intermediate,
        max_position_embeddings=settings.positions,
        type_vocab_size=settings.token_types,
        layer_norm_eps=settings.norm_epsilon,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
    )


# --- training ---


def padded(rows: list[Tensor], limit: int) -> tuple[Tensor, Tensor]:
    """Tokens of several images [E, C] -> one tensor [B, the most E, C] cut to `limit`, and which are real [B, E]."""
    tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, :limit]
    counts = torch.tensor([len(row) for row in rows], device=tokens.device)
    return tokens, torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]


def relation_targets(relations: list[Tensor], predicates: int, entities: int) -> Tensor:
    """Rows (subject, object, predicate) of each image -> [B, predicates, E, E] bool; segments beyond E are left out."""
    targets = torch.zeros(len(relations), predicates, entities, entities, dtype=torch.bool, device=relations[0].device)
    for image, rows in enumerate(relations):
        subjects, objects, kinds = rows[(rows[:, :2] < entities).all(dim=1)].unbind(dim=1)
        targets[image, kinds, subjects, objects] = True
    return targets


def relation_loss(logits: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    """How far the pairs that hold do not stand out from those that do not, for each predicate of each image.

    log(1 + sum over other pairs of exp(logit)) + log(1 + sum over pairs that hold of exp(-logit)), averaged: the
    loss of several labels that are each true or not, balanced however few are (arXiv 2208.02955).
    Each of the E x E pairs counts, a segment with itself too.
    """
    pairs = (present[:, None, :, None] & present[:, None, None, :]).expand_as(targets)
    scores = logits.float()
    others = scores.masked_fill(~pairs | targets, -torch.inf).flatten(2)
    holding = (-scores).masked_fill(~pairs | ~targets, -torch.inf).flatten(2)
    # a further exponent of 0 is the 1 in the logarithm
    others, holding = (torch.logsumexp(F.pad(each, (1, 0)), dim=-1) for each in (others, holding))
    return (others + holding).mean()


def relation_statistics(logits: Tensor, targets: Tensor, present: Tensor) -> dict[str, Tensor]:
    """How well the sign of logits [B, P, E, E] tells which relations hold: precision, recall and F1, as fractions.

    Averaged over the images, all predicates together; and as "mean_..." over the predicates that occur in the batch.
    """
    pairs = present[:, None, :, None] & present[:, None, None, :]
    claimed, holding = (logits > 0) & pairs, targets & pairs
    found: dict[str, Tensor] = {}
    for prefix, others in (("", (1, 2, 3)), ("mean_", (0, 2, 3))):
        hits, claims, truth = (which.sum(dim=others).float() for which in (claimed & holding, claimed, holding))
        counted = truth > 0 if prefix else torch.ones_like(truth, dtype=torch.bool)
        precision, recall = hits / (claims + SMALL), hits / (truth + SMALL)
        f1 = 2 * precision * recall / (precision + recall + SMALL)
        figures = {"precision": precision, "recall": recall, "f1": f1}
        found |= {prefix + name: values[counted].sum() / (counted.sum() + SMALL) for name, values in figures.items()}
    return found


# --- predicting ---


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
