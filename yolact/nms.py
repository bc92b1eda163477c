"""Three kinds of non-maximum suppression: fast and cross-class (paper, section 4.1), and the traditional one.

All take boxes [n, 4] and the scores [C, n] that each class gives them, and answer which boxes are left, with which
labels and scores, highest score first.
"""

import math

import torch
from torch import Tensor
from torchvision.ops import nms

from common.ops.precision import widest_float
from yolact.boxes import ious

FIRST_LOOK = 32  # boxes of each class that fast NMS compares first
Chosen = tuple[Tensor, Tensor, Tensor]  # boxes' numbers, labels, scores: [m] each


def fast_nms(
    boxes: Tensor, scores: Tensor, threshold: float, top_k: int, limit: int, lowest: float | None = None
) -> Chosen:
    """For each class the `top_k` best boxes; those go that overlap a better one, even one that goes itself.

    The best `limit` of all classes are left. A score may be low: only `lowest`, where given, is a second threshold.
    """
    scores, order = scores.topk(torch.sym_min(top_k, scores.shape[1]), dim=1)  # [C, k]
    look = top_k if torch.compiler.is_exporting() else FIRST_LOOK
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[:, :look] = ~beaten(boxes[order[:, :look]], threshold)
    alive = keep if lowest is None else keep & (scores > lowest)
    if look < top_k and look < scores.shape[1]:
        # further down only those classes matter whose scores there may still be among the best
        best = scores[alive].sort(descending=True).values[limit - 1 : limit]
        deep = (scores[:, FIRST_LOOK] >= best).nonzero().squeeze(1) if len(best) else slice(None)
        keep[deep] = ~beaten(boxes[order[deep]], threshold)
        alive = keep if lowest is None else keep & (scores > lowest)
    labels = torch.arange(len(scores), device=scores.device)[:, None].expand_as(scores)
    order, labels, scores = order[alive], labels[alive], scores[alive]
    scores, best_first = scores.sort(descending=True, stable=True)
    best_first = best_first[:limit]
    return order[best_first], labels[best_first], scores[:limit]


def cross_class_nms(boxes: Tensor, scores: Tensor, threshold: float, top_k: int) -> Chosen:
    """Fast NMS of each box with its best class only, and over all classes together."""
    best, labels = scores.max(dim=0)
    best, order = best.topk(torch.sym_min(top_k, best.shape[0]))
    keep = ~beaten(boxes[order], threshold)
    return order[keep], labels[order[keep]], best[keep]


def beaten(boxes: Tensor, threshold: float) -> Tensor:
    """Which of boxes [.., k, 4], best first, overlap a better one by more than the threshold. [.., k]"""
    return (ious(boxes, boxes) > threshold).triu(diagonal=1).any(dim=-2)


def traditional_nms(boxes: Tensor, scores: Tensor, threshold: float, lowest: float, limit: int) -> Chosen:
    """Greedy, for each class; boxes in pixels, whose last row and column count, go at an IoU of `threshold` already."""
    labels, order = (scores > lowest).nonzero(as_tuple=True)
    scores = scores[labels, order]
    exact = widest_float(boxes.device)
    inclusive = boxes[order].to(exact)
    inclusive[:, 2:] += 1
    spread = (inclusive.amax() - inclusive.amin() + 1) if len(inclusive) else 1.0
    apart = inclusive + (labels * spread)[:, None]  # boxes of different classes never meet
    keep = nms(apart, scores.to(exact), math.nextafter(threshold, 0))[:limit]
    return order[keep], labels[keep], scores[keep]
