"""Sigmoid focal loss: one pass forward, one pass backward, and nothing kept between them but the inputs.

A CUDA kernel (focal_loss_cuda.py) or PyTorch operations on small chunks (closed_form.py) compute it, with the same
values, behind a custom operator of PyTorch, so torch.compile and torch.export see one operator.
"""

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, library

from common.ops import closed_form, focal_loss_cuda

Reduction = Literal["sum", "mean", "none"]
Convention = Literal["zero_is_background", "last_is_background", "one_hot"]


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float = 0.25, reduction: Reduction = "sum"
) -> Tensor:
    """Focal loss of independent sigmoids (Lin et al. 2017, equation 5); alpha < 0 leaves the classes unweighted.

    logits [..., C] in any floating type; targets [...] integer class indices, where C means background and a negative
    index a row to ignore (see convert_targets). The loss is float32, or float64 for float64 logits.
    """
    if reduction not in ("sum", "mean", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected 'sum', 'mean' or 'none'")
    if not logits.is_floating_point():
        raise TypeError(f"logits are {logits.dtype}; expected a floating type")
    if gamma < 0 or alpha > 1:
        raise ValueError(f"gamma is {gamma} and alpha {alpha}; expected gamma >= 0 and alpha <= 1")
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"targets are {targets.dtype}; expected integer class indices (see convert_targets)")
    if targets.shape != logits.shape[:-1]:
        raise ValueError(f"targets {[*targets.shape]} for logits {[*logits.shape]}; expected one index for each row")
    rows = logits.unsqueeze(0).flatten(0, -2)
    loss: Tensor = _focal_loss(rows, targets.flatten().long(), float(gamma), float(alpha), reduction != "none")
    if reduction == "none":
        return loss.reshape(logits.shape)
    return loss / max(logits.numel(), 1) if reduction == "mean" else loss


def convert_targets(targets: Tensor, convention: Convention, num_classes: int) -> Tensor:
    """Targets of another code base -> class indices for sigmoid_focal_loss: background is num_classes, ignored is -1.

    zero_is_background: mmdetection 1 and SOLO: [...] 0 is background, 1..C the classes, negative is ignored.
    last_is_background: mmcv 1 and mmdetection 2 on: [...] 0..C-1 the classes, everything else is background.
    one_hot: torchvision and fvcore: [..., C], at most one 1 in a row.
    """
    if convention == "one_hot":
        if targets.shape[-1] != num_classes:
            raise ValueError(f"one-hot targets have {targets.shape[-1]} columns for {num_classes} classes")
        return torch.where(targets.bool().any(-1), targets.to(torch.float32).argmax(-1), num_classes)
    if targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError(f"targets are {targets.dtype}; {convention} needs integer class indices")
    targets = targets.long()
    if convention == "zero_is_background":
        return torch.where(targets == 0, num_classes, (targets - 1).clamp(min=-1))
    if convention == "last_is_background":
        return torch.where((targets >= 0) & (targets < num_classes), targets, num_classes)
    raise ValueError(f"convention is {convention!r}; expected 'zero_is_background', 'last_is_background' or 'one_hot'")


@library.custom_op("maskworks::sigmoid_focal_loss", mutates_args=())
def _focal_loss(logits: Tensor, targets: Tensor, gamma: float, alpha: float, summed: bool) -> Tensor:
    # Looked at where that costs nothing: on a GPU it would wait for the device, and such a row is background there.
    classes = logits.shape[1]
    if targets.device.type == "cpu" and targets.numel() > 0 and (largest := int(targets.max())) > classes:
        raise ValueError(f"targets hold class index {largest} for {classes} classes; see convert_targets")
    loss = focal_loss_cuda.loss if focal_loss_cuda.usable(logits) else closed_form.loss
    return loss(logits, targets, gamma, _weights(alpha), summed)


@_focal_loss.register_fake
def _(logits: Tensor, targets: Tensor, gamma: float, alpha: float, summed: bool) -> Tensor:
    return logits.new_empty(() if summed else logits.shape, dtype=closed_form.computed_in(logits))


@library.custom_op("maskworks::sigmoid_focal_loss_backward", mutates_args=())
def _focal_loss_backward(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    gradient = focal_loss_cuda.gradient if focal_loss_cuda.usable(logits) else closed_form.gradient
    return gradient(upstream, logits, targets, gamma, _weights(alpha))


@_focal_loss_backward.register_fake
def _(upstream: Tensor, logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, float, float, bool], output: Tensor) -> None:
    logits, targets, ctx.gamma, ctx.alpha, _ = inputs
    ctx.save_for_backward(logits, targets)


def _differentiate(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
    logits, targets = ctx.saved_tensors
    return _focal_loss_backward(upstream, logits, targets, ctx.gamma, ctx.alpha), None, None, None, None


def _refuse(ctx: Any, upstream: Tensor) -> NoReturn:
    raise RuntimeError("sigmoid_focal_loss cannot be differentiated twice")


_focal_loss.register_autograd(_differentiate, setup_context=_remember)
_focal_loss_backward.register_autograd(_refuse)


def _weights(alpha: float) -> tuple[float, float]:
    """What a target of 0 weighs, and a target of 1."""
    return (1.0, 1.0) if alpha < 0 else (1 - alpha, alpha)
