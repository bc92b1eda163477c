"""torchvision's operators that read features where a network says, also where it says what is no number.

On a processor they read anywhere in memory then, and a training that diverges would end in a segmentation fault. Here
such places are the first pixel's; the losses are no numbers all the same, and the training loop says so.
"""

import torchvision.ops
from torch import Tensor

Pair = int | tuple[int, int]


def roi_align(
    features: Tensor, regions: Tensor, size: Pair, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """RoIAlign of regions [R, 5]: image, x1, y1, x2, y2."""
    found: Tensor = torchvision.ops.roi_align(features, regions.nan_to_num(), size, scale, sampling_ratio, aligned)
    return found


def deform_conv2d(
    features: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    mask: Tensor | None = None,
) -> Tensor:
    """A deformable convolution; `offsets` [N, 2 taps, h, w] are each dy and dx."""
    places = offsets.nan_to_num()
    found: Tensor = torchvision.ops.deform_conv2d(features, places, weight, bias, stride, padding, mask=mask)
    return found
