"""Sigmoid focal loss and its gradient in closed form, a cache-sized chunk at a time, on any device.

With z the logit of the wrong answer (x where the target is 0, -x where it is 1) and q = sigmoid(z):

    loss       = weight q^gamma softplus(z)
    d loss/d z = weight q^gamma (q + gamma (1 - q) softplus(z))

Almost every element's target is 0, so all of a chunk is computed as such after the few logits of its positives were
negated; only their weights differ then. Chunks are computed in buffers made once: memory that is given back and taken
anew for every chunk costs more than the arithmetic.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Elements at once: small enough for the cache, large enough that threads seldom wait for each other.
_CHUNK_PER_THREAD = 1 << 16
_LARGEST_CHUNK = 1 << 20
_CHUNK_ON_DEVICE = 1 << 22  # elsewhere few launches matter more

OfWrong = Callable[[Tensor, Tensor, float], Tensor]  # wrong answers' logits, a buffer, gamma -> what to weight


def loss(logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], summed: bool) -> Tensor:
    """logits [N, C], targets [N] int64 -> the loss's sum [], or each element's [N, C]."""
    out = logits.new_empty(0 if summed else logits.shape, dtype=computed_in(logits))
    sums = [out.new_zeros(())]
    for rows, losses in _chunks(logits, targets, gamma, weights, _unweighted_loss):
        if summed:
            sums.append(losses.sum())
        else:
            out[rows] = losses
    return torch.stack(sums).sum() if summed else out


def gradient(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float]) -> Tensor:
    """The loss's gradient [N, C] for upstream, the gradient [] of its sum or [N, C] of its elements."""
    out = torch.empty_like(logits, memory_format=torch.contiguous_format)
    # A positive's z is -x, so its derivative by x is that by z with the other sign.
    for rows, slopes in _chunks(logits, targets, gamma, (weights[0], -weights[1]), _unweighted_slope):
        torch.mul(slopes, upstream if upstream.ndim == 0 else upstream[rows], out=out[rows])
    return out


def _chunks(
    logits: Tensor, targets: Tensor, gamma: float, weights: tuple[float, float], of_wrong: OfWrong
) -> Iterator[tuple[slice, Tensor]]:
    """Rows, and what `of_wrong` makes of them [rows, C], weighted and overwritten by the next."""
    (count, classes), dtype = logits.shape, computed_in(logits)
    positive_rows = ((targets >= 0) & (targets < classes)).nonzero()[:, 0]
    ignored_rows = (targets < 0).nonzero()[:, 0]
    positives = positive_rows * classes + targets[positive_rows]
    step = _rows_at_once(logits)
    starts = range(0, count if classes else 0, step)
    bounds = torch.tensor([*starts, count], device=logits.device)
    positive_bounds = torch.searchsorted(positive_rows, bounds).tolist()
    ignored_bounds = torch.searchsorted(ignored_rows, bounds).tolist()
    buffers = logits.new_empty((2, min(step, count), classes), dtype=dtype)
    for index, start in enumerate(starts):
        rows = slice(start, min(start + step, count))
        wrong, scratch = buffers[:, : rows.stop - start]
        # Finite, as infinity times 0 would be no number.
        wrong.copy_(logits[rows]).clamp_(torch.finfo(dtype).min, torch.finfo(dtype).max)
        here = positives[positive_bounds[index] : positive_bounds[index + 1]] - start * classes
        wrong.view(-1).index_copy_(0, here, -wrong.view(-1)[here])
        ignored = ignored_rows[ignored_bounds[index] : ignored_bounds[index + 1]] - start
        wrong.index_fill_(0, ignored, -torch.inf)  # neither loss nor gradient
        values = of_wrong(wrong, scratch, gamma)
        rare = values.view(-1)[here] * weights[1]
        values.mul_(weights[0]).view(-1).index_copy_(0, here, rare)
        yield rows, values


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


def _softplus(logit: Tensor, out: Tensor) -> Tensor:
    """log(1 + e^x), right relative to itself everywhere."""
    return torch.logaddexp(logit, logit.new_zeros(()), out=out)


def _rows_at_once(logits: Tensor) -> int:
    size = _CHUNK_ON_DEVICE
    if logits.device.type == "cpu":
        size = min(_CHUNK_PER_THREAD * torch.get_num_threads(), _LARGEST_CHUNK)
    return max(1, size // max(1, logits.shape[1]))


def computed_in(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32
