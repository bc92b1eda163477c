"""The loss: cross entropy of each window pixel (the original's only term)."""

import torch.nn.functional as F
from torch import Tensor


def pose2seg_losses(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Logits of background and person [n, 2, w, w] against targets [n, w, w] of 0 and 1."""
    return {"mask": F.cross_entropy(logits.float(), targets)}
