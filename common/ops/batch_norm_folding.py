"""Batch norms as part of the convolutions before them, which saves a pass over memory."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d


class Network(Protocol):
    def modules(self) -> Iterator[nn.Module]: ...


def fold_batch_norms(network: Network) -> None:
    """For inference only: the weights are no longer a checkpoint's afterwards.

    Pairs are named as in torchvision's residual networks; the convolution may be a deformable one.
    """
    for module in network.modules():
        names = [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)]
        if isinstance(module, nn.Sequential):  # a residual block's shortcut, or a unit: convolution, norm
            names = [("0", "1")]
        for conv_name, norm_name in names:
            conv: Any = getattr(module, conv_name, None)
            norm = getattr(module, norm_name, None)
            if is_convolution(conv) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                conv.weight, conv.bias = fuse_conv_bn_weights(
                    conv.weight,
                    conv.bias,
                    norm.running_mean,  # type: ignore[arg-type]
                    norm.running_var,  # type: ignore[arg-type]
                    norm.eps,
                    norm.weight,
                    norm.bias,
                )
                setattr(module, norm_name, nn.Identity())


def is_convolution(module: Any) -> bool:
    """Also a deformable one; a transposed one has its output channels elsewhere."""
    weight = getattr(module, "weight", None)
    return isinstance(weight, nn.Parameter) and weight.ndim == 4 and not isinstance(module, nn.ConvTranspose2d)
