"""Sigmoid focal loss and its gradient in closed form, a cache-sized chunk at a time, on any device.

With z the logit of the wrong answer (x where the target is 0, -x where it is 1) and q = sigmoid(z):

    loss       = weight q^gamma softplus(z)
    d loss/d z = weight q^gamma (q + gamma (1 - q) softplus(z))

Almost every element of a class-index target is a 0, so all of a chunk is computed as such after the few logits
of its positives were negated; only their weights differ then.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# Elements at once: small enough for the cache, large enough that threads seldom wait for each other.
_CHUNK_PER_THREAD = 1 << 17
_LARGEST_CHUNK = 1 << 20
_CHUNK_ON_DEVICE = 1 << 22  # elsewhere few launches matter more


class Chunk(NamedTuple):
    """Some rows of the logits, as the logits of the wrong answers."""

    rows: slice
    wrong: Tensor  # [rows, C], a buffer that may be overwritten
    scratch: Tensor  # [rows, C], another
    positives: Tensor  # [P] positions of the positives in the flattened chunk


def loss(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], summed: bool) -> Tensor:
    """logits [N, C], targets [N] int64 or [N, C] float or bool -> the loss's sum [], or each element's [N, C]."""
    if targets.ndim == 2:
        return _dense_loss(logits, targets, gamma, weights, summed)
    negative_weight, positive_weight = weights
    out = logits.new_empty(0 if summed else logits.shape, dtype=_computed_in(logits))
    sums = [out.new_zeros(())]
    for rows, wrong, scratch, positives in _chunks(logits, targets):
        cost = softplus(wrong, out=scratch)
        modulator = torch.sigmoid(wrong, out=wrong).pow_(gamma)
        values = modulator.mul_(cost)
        rare = values.view(-1)[positives] * positive_weight
        if summed:
            values.view(-1).index_fill_(0, positives, 0.0)
            sums += [values.sum() * negative_weight, rare.sum()]
        else:
            torch.mul(values, negative_weight, out=out[rows]).view(-1).index_copy_(0, positives, rare)
    return torch.stack(sums).sum() if summed else out


def gradient(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Tensor:
    """The loss's gradient [N, C] for upstream, the gradient [] of its sum or [N, C] of its elements."""
    if targets.ndim == 2:
        return _dense_gradient(upstream, logits, targets, gamma, weights)
    negative_weight, positive_weight = weights
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for rows, wrong, scratch, positives in _chunks(logits, targets):
        cost = softplus(wrong, out=scratch)
        probability = torch.sigmoid(wrong, out=wrong)
        slope = cost.addcmul_(cost, probability, value=-1)  # (1 - q) softplus(z)
        slope = torch.add(probability, slope, alpha=gamma, out=slope)
        slope.mul_(probability.pow_(gamma))
        rare = slope.view(-1)[positives] * -positive_weight  # negative: z = -x
        slope.mul_(negative_weight)
        slope.view(-1).index_copy_(0, positives, rare)
        torch.mul(slope, upstream if upstream.ndim == 0 else upstream[rows], out=out[rows])
    return out


def softplus(logit: Tensor, out: Tensor | None = None) -> Tensor:
    """log(1 + e^x), without log1p: PyTorch's is ten times slower than its log on processors with AVX-512.

    Instead log1p(e) = log(1 + e) e / ((1 + e) - 1), where the quotient makes good what rounding 1 + e lost.
    """
    small = logit.abs().neg_().exp_()
    rounded = small + 1
    lost = rounded - 1
    logarithm = rounded.log_().mul_(small).div_(lost)
    logarithm = torch.where(lost == 0, small, logarithm)
    return torch.add(logarithm, logit.clamp(min=0), out=out)


def _chunks(logits: Tensor, targets: Tensor) -> Iterator[Chunk]:
    count, classes = logits.shape
    if logits.numel() == 0:
        return
    rows_at_once = min(count, max(1, _chunk_size(logits) // classes))
    buffers = logits.new_empty((2, rows_at_once, classes), dtype=_computed_in(logits))
    positive_rows = ((targets >= 0) & (targets < classes)).nonzero()[:, 0]
    ignored_rows = (targets < 0).nonzero()[:, 0]
    positives = positive_rows * classes + targets[positive_rows]
    starts = torch.arange(0, count + rows_at_once, rows_at_once, device=logits.device)
    positive_bounds = torch.searchsorted(positive_rows, starts).tolist()
    ignored_bounds = torch.searchsorted(ignored_rows, starts).tolist()
    for index, start in enumerate(range(0, count, rows_at_once)):
        rows = slice(start, min(start + rows_at_once, count))
        wrong, scratch = buffers[:, : rows.stop - start]
        wrong.copy_(logits[rows])
        here = positives[positive_bounds[index] : positive_bounds[index + 1]] - start * classes
        wrong.view(-1).index_copy_(0, here, -wrong.view(-1)[here])
        ignored = ignored_rows[ignored_bounds[index] : ignored_bounds[index + 1]] - start
        wrong.index_fill_(0, ignored, -torch.inf)  # neither loss nor gradient
        yield Chunk(rows, wrong, scratch, here)


def _dense_loss(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], summed: bool) -> Tensor:
    out = logits.new_empty(0 if summed else logits.shape, dtype=_computed_in(logits))
    sums = [out.new_zeros(())]
    for rows, logit, target in _dense_chunks(logits, targets):
        if _is_hard(targets, target):
            wrong = logit.mul_(1 - 2 * target)
            values = torch.sigmoid(wrong).pow_(gamma).mul_(softplus(wrong))
        else:
            probability, cost = _soft_terms(logit, target)
            values = probability.pow_(gamma).mul_(cost)
        values.mul_(_soft_weight(target, weights))
        if summed:
            sums.append(values.sum())
        else:
            out[rows] = values
    return torch.stack(sums).sum() if summed else out


def _dense_gradient(
    upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]
) -> Tensor:
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for rows, logit, target in _dense_chunks(logits, targets):
        if _is_hard(targets, target):
            sign = 1 - 2 * target
            wrong = logit.mul_(sign)
            probability, cost = torch.sigmoid(wrong), softplus(wrong)
            slope = cost.addcmul_(cost, probability, value=-1).mul_(gamma).add_(probability).mul_(sign)
            slope.mul_(probability.pow_(gamma))
        else:
            slope = _soft_slope(logit, target, gamma)
        slope.mul_(_soft_weight(target, weights))
        torch.mul(slope, upstream if upstream.ndim == 0 else upstream[rows], out=out[rows])
    return out


def _dense_chunks(logits: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    computed_in = _computed_in(logits)
    rows_at_once = max(1, _chunk_size(logits) // max(1, logits.shape[1]))
    for start in range(0, len(logits), rows_at_once):
        rows = slice(start, start + rows_at_once)
        finite = logits[rows].to(computed_in).clamp(min=torch.finfo(computed_in).min)  # 0 times infinity is not 0
        yield rows, finite, targets[rows].to(computed_in)


def _is_hard(targets: Tensor, target: Tensor) -> bool:
    """Whether a chunk's targets are all 0 or 1, which takes half the work."""
    return targets.dtype == torch.bool or not bool((target * (1 - target)).any())


def _soft_terms(logit: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of the wrong answer and the cross-entropy, for targets from 0 to 1."""
    wrong = target * torch.sigmoid(-logit) + (1 - target) * torch.sigmoid(logit)
    return wrong, -(target * F.logsigmoid(logit) + (1 - target) * F.logsigmoid(-logit))


def _soft_slope(logit: Tensor, target: Tensor, gamma: float) -> Tensor:
    wrong, cost = _soft_terms(logit, target)
    one, zero = torch.sigmoid(logit), torch.sigmoid(-logit)
    # d wrong / d logit, over wrong: finite also where wrong itself vanishes.
    relative = one * zero * (1 - 2 * target) / wrong.clamp(min=torch.finfo(wrong.dtype).tiny)
    pull = (1 - target) * one - target * zero  # d cost / d logit
    return wrong.pow_(gamma) * (gamma * relative * cost + pull)


def _soft_weight(target: Tensor, weights: tuple[float, float]) -> Tensor:
    negative_weight, positive_weight = weights
    return target.mul(positive_weight - negative_weight).add_(negative_weight)


def _computed_in(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _chunk_size(logits: Tensor) -> int:
    if logits.device.type != "cpu":
        return _CHUNK_ON_DEVICE
    return min(_CHUNK_PER_THREAD * torch.get_num_threads(), _LARGEST_CHUNK)
