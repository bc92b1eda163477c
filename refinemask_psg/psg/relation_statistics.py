"""How well the sign of the logits tells which relations hold: the figures that the original logs, as fractions."""

import torch
from torch import Tensor

SMALL = 1e-8


def relation_statistics(logits: Tensor, targets: Tensor, present: Tensor) -> dict[str, Tensor]:
    """Logits and targets [B, P, E, E], segments present [B, E] -> precision, recall and F1, averaged in two ways.

    Over images, all predicates together; and "mean_..." over the predicates that occur in the batch.
    """
    pairs = present[:, None, :, None] & present[:, None, None, :]
    claimed, holding = (logits > 0) & pairs, targets & pairs
    right = claimed & holding
    found: dict[str, Tensor] = {}
    for prefix, own, others in (("", 0, (1, 2, 3)), ("mean_", 1, (0, 2, 3))):
        hits, claims, truth = (which.sum(dim=others).float() for which in (right, claimed, holding))
        occurs = truth > 0 if own == 1 else torch.ones_like(truth, dtype=torch.bool)
        precision, recall = hits / (claims + SMALL), hits / (truth + SMALL)
        f1 = 2 * precision * recall / (precision + recall + SMALL)
        figures = {"precision": precision, "recall": recall, "f1": f1}
        found |= {prefix + name: values[occurs].sum() / (occurs.sum() + SMALL) for name, values in figures.items()}
    return found
