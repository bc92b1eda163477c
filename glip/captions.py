"""Captions of training images, and which of their tokens name each object."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from common.data.batches import Target
from glip.prompts import Caption
from glip.tokeniser import Tokeniser


@dataclass
class GroundingTarget(Target):
    """A target with its image's caption."""

    caption: str = ""
    positive: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))  # [n, max tokens]


def ground(target: Target, caption: Caption, tokeniser: Tokeniser) -> GroundingTarget:
    """A target whose labels are positions in the caption's phrases or, where it has them, its labels."""
    rows = positive_rows(tokeniser.positions(caption.text, caption.phrases), tokeniser.max_tokens)
    places = {label: row for row, label in enumerate(caption.labels)}
    chosen = torch.tensor([places[label] for label in target.labels.tolist()], dtype=torch.int64)
    values = {each.name: getattr(target, each.name) for each in fields(Target)}
    return GroundingTarget(**values, caption=caption.text, positive=rows[chosen].to(target.labels.device))


def positive_rows(positions: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """[phrases, tokens] bool: which tokens each phrase has."""
    rows = torch.zeros(len(positions), tokens, dtype=torch.bool)
    for row, places in enumerate(positions):
        rows[row, [place for place in places if place < tokens]] = True
    return rows
