"""Sigmoid focal loss and its gradient in closed form, a cache-sized chunk at a time, on any device.

With z the logit of the wrong answer (x where the target is 0, -x where it is 1) and q = sigmoid(z):

    loss       = weight q^gamma softplus(z)
    d loss/d z = weight q^gamma (q + gamma (1 - q) softplus(z))

Almost every element of a class-index target is a 0, so all of a chunk is computed as such after the few logits
of its positives were negated; only their weights differ then. Chunks are computed in buffers made once: memory that
is given back and taken anew for every chunk costs more than the arithmetic.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Elements at once: small enough for the cache, large enough that threads seldom wait for each other.
_CHUNK_PER_THREAD = 1 << 16
_LARGEST_CHUNK = 1 << 20
_CHUNK_ON_DEVICE = 1 << 22  # elsewhere few launches matter more


def loss(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], summed: bool) -> Tensor:
    """logits [N, C], targets [N] int64 or [N, C] float or bool -> the loss's sum [], or each element's [N, C]."""
    out = logits.new_empty(0 if summed else logits.shape, dtype=_computed_in(logits))
    sums = [out.new_zeros(())]
    if targets.ndim == 1:
        chunks = _of_indices(logits, targets, gamma, weights, _unweighted_loss)
    else:
        chunks = _dense_losses(logits, targets, gamma, weights)
    for rows, values in chunks:
        if summed:
            sums.append(values.sum())
        else:
            out[rows] = values
    return torch.stack(sums).sum() if summed else out


def gradient(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Tensor:
    """The loss's gradient [N, C] for upstream, the gradient [] of its sum or [N, C] of its elements."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    if targets.ndim == 1:
        # A positive's z is -x, so its derivative by x is that by z with the other sign.
        chunks = _of_indices(logits, targets, gamma, (weights[0], -weights[1]), _unweighted_slope)
    else:
        chunks = _dense_slopes(logits, targets, gamma, weights)
    for rows, slope in chunks:
        torch.mul(slope, upstream if upstream.ndim == 0 else upstream[rows], out=out[rows])
    return out


Chunks = Iterator[tuple[slice, Tensor]]  # rows, and what was computed of them [rows, C], overwritten by the next
OfWrong = Callable[[Tensor, Tensor, float], Tensor]  # wrong answers' logits, a buffer, gamma -> what to weight


def _of_indices(
    logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], of_wrong: OfWrong
) -> Chunks:
    negative_weight, positive_weight = weights
    for rows, wrong, scratch, positives in _index_chunks(logits, targets):
        values = of_wrong(wrong, scratch, gamma)
        rare = values.view(-1)[positives] * positive_weight
        values.mul_(negative_weight).view(-1).index_copy_(0, positives, rare)
        yield rows, values


def _dense_losses(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Chunks:
    negative_weight, positive_weight = weights
    for rows, logit, scratch, target, hard in _dense_chunks(logits, targets):
        if hard:
            wrong = logit.mul_(torch.mul(target, -2, out=scratch).add_(1))
            values = _unweighted_loss(wrong, scratch, gamma)
        else:
            probability, cost = _soft_terms(logit, target)
            values = torch.mul(probability.pow_(gamma), cost, out=scratch)
        yield rows, values.mul_(target.mul_(positive_weight - negative_weight).add_(negative_weight))


def _dense_slopes(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Chunks:
    negative_weight, positive_weight = weights
    for rows, logit, scratch, target, hard in _dense_chunks(logits, targets):
        if hard:
            wrong = logit.mul_(torch.mul(target, -2, out=scratch).add_(1))
            slope = _unweighted_slope(wrong, scratch, gamma)
            slope.mul_(target.mul_(-positive_weight - negative_weight).add_(negative_weight))
        else:
            slope = _soft_slope(logit, target, gamma)
            slope.mul_(target.mul_(positive_weight - negative_weight).add_(negative_weight))
        yield rows, slope


def _unweighted_loss(wrong: Tensor, scratch: Tensor, gamma: float) -> Tensor:
    """q^gamma softplus(z) for the wrong answers' logits z, which are overwritten."""
    cost = _softplus(wrong, out=scratch)
    return cost.mul_(wrong.sigmoid_().pow_(gamma))


def _unweighted_slope(wrong: Tensor, scratch: Tensor, gamma: float) -> Tensor:
    """The derivative of that by z."""
    cost = _softplus(wrong, out=scratch)
    probability = wrong.sigmoid_()
    slope = cost.addcmul_(cost, probability, value=-1)  # (1 - q) softplus(z)
    slope = torch.add(probability, slope, alpha=gamma, out=slope)
    return slope.mul_(probability.pow_(gamma))


def _soft_terms(logit: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The probability of the wrong answer and the cross-entropy, for targets from 0 to 1."""
    wrong = torch.lerp(torch.sigmoid(logit), torch.sigmoid(-logit), target)
    return wrong, torch.lerp(_softplus(logit), _softplus(-logit), target)


def _soft_slope(logit: Tensor, target: Tensor, gamma: float) -> Tensor:
    wrong, cost = _soft_terms(logit, target)
    one, zero = torch.sigmoid(logit), torch.sigmoid(-logit)
    # d wrong / d logit, over wrong: finite also where wrong itself vanishes.
    relative = one * zero * (1 - 2 * target) / wrong.clamp(min=torch.finfo(wrong.dtype).tiny)
    pull = (1 - target) * one - target * zero  # d cost / d logit
    return wrong.pow_(gamma) * (gamma * relative * cost + pull)


def _softplus(logit: Tensor, out: Tensor | None = None) -> Tensor:
    """log(1 + e^x), right relative to itself everywhere."""
    return torch.logaddexp(logit, logit.new_zeros(()), out=out)


def _index_chunks(logits: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Rows, the logits of their wrong answers, a buffer like them, and the positives in the flattened chunk."""
    classes = logits.shape[1]
    positive_rows = ((targets >= 0) & (targets < classes)).nonzero()[:, 0]
    ignored_rows = (targets < 0).nonzero()[:, 0]
    positives = positive_rows * classes + targets[positive_rows]
    chunks = _rows_at_once(logits)
    starts = torch.tensor([rows.start for rows in chunks] + [len(logits)], device=logits.device)
    positive_bounds = torch.searchsorted(positive_rows, starts).tolist()
    ignored_bounds = torch.searchsorted(ignored_rows, starts).tolist()
    buffers = _buffers(logits, chunks, 2)
    for index, rows in enumerate(chunks):
        wrong, scratch = buffers[:, : rows.stop - rows.start]
        _copy_finite(logits[rows], wrong)
        here = positives[positive_bounds[index] : positive_bounds[index + 1]] - rows.start * classes
        wrong.view(-1).index_copy_(0, here, -wrong.view(-1)[here])
        ignored = ignored_rows[ignored_bounds[index] : ignored_bounds[index + 1]] - rows.start
        wrong.index_fill_(0, ignored, -torch.inf)  # neither loss nor gradient
        yield rows, wrong, scratch, here


def _dense_chunks(logits: Tensor, targets: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, bool]]:
    """Rows, their logits, a buffer like them, their targets, and whether all of these are 0 or 1: half the work."""
    chunks = _rows_at_once(logits)
    buffers = _buffers(logits, chunks, 3)
    for rows in chunks:
        logit, scratch, target = buffers[:, : rows.stop - rows.start]
        _copy_finite(logits[rows], logit)
        target.copy_(targets[rows])
        hard = targets.dtype == torch.bool
        hard = hard or not torch.addcmul(target, target, target, value=-1, out=scratch).count_nonzero()
        yield rows, logit, scratch, target, hard


def _copy_finite(logits: Tensor, to: Tensor) -> None:
    """Infinity times 0 would be no number."""
    limits = torch.finfo(to.dtype)
    to.copy_(logits).clamp_(limits.min, limits.max)


def _rows_at_once(logits: Tensor) -> list[slice]:
    count, classes = logits.shape
    if logits.numel() == 0:
        return []
    size = _CHUNK_ON_DEVICE
    if logits.device.type == "cpu":
        size = min(_CHUNK_PER_THREAD * torch.get_num_threads(), _LARGEST_CHUNK)
    step = max(1, size // classes)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def _buffers(logits: Tensor, chunks: list[slice], count: int) -> Tensor:
    rows = chunks[0].stop if chunks else 0
    return logits.new_empty((count, rows, logits.shape[1]), dtype=_computed_in(logits))


def _computed_in(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
