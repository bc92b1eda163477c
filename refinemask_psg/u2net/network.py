"""U-2-Net (arXiv 2005.09007): a U of small Us, which finds what is salient in an image.

- Names of layers are those of the published files u2net.pth and u2netp.pth, which can be loaded as they are.
- The same blocks make up the semantic head (refinemask_psg/semantic.py).
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from common.data.batches import Batch
from refinemask_psg.u2net.config import VARIANTS, Config
from refinemask_psg.u2net.resizing import resize_smoothed

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = 6
OUTPUTS = ("fused", *(f"side{index}" for index in range(1, SIDES + 1)))


class ConvNormReLU(nn.Module):
    """3 x 3 convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1):
        super().__init__()
        self.conv_s1 = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(outputs)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.bn_s1(self.conv_s1(features)))


class ResidualU(nn.Module):
    """A U within a shortcut (paper, section 3.1): `depth` levels that halve the map, or dilate instead.

    The layers are rebnconvin, rebnconv1..depth on the way down and rebnconv(depth-1)d..1d on the way up.
    """

    def __init__(self, depth: int, inputs: int, middle: int, outputs: int, dilated: bool = False):
        super().__init__()
        self.depth, self.dilated = depth, dilated
        self.rebnconvin = ConvNormReLU(inputs, outputs)
        for level in range(1, depth + 1):
            dilation = 2 ** (level - 1) if dilated else 2 if level == depth else 1
            self.add_module(f"rebnconv{level}", ConvNormReLU(outputs if level == 1 else middle, middle, dilation))
        for level in range(depth - 1, 0, -1):
            dilation = 2 ** (level - 1) if dilated else 1
            width = outputs if level == 1 else middle
            self.add_module(f"rebnconv{level}d", ConvNormReLU(2 * middle, width, dilation))

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features = self.rebnconvin(features)
        down = []
        for level in range(1, self.depth + 1):
            # the deepest layer dilates instead of looking at a smaller map
            if 1 < level < self.depth and not self.dilated:
                features = halve(features)
            features = self.get_submodule(f"rebnconv{level}")(features)
            down.append(features)
        for level in range(self.depth - 1, 0, -1):
            sibling = down[level - 1]
            both = torch.cat((resize_like(features, sibling), sibling), dim=1)
            features = self.get_submodule(f"rebnconv{level}d")(both)
        total: Tensor = features + shortcut
        return total


class U2Net(nn.Module):
    """Normalised images [N, 3, H, W] -> seven saliency maps [N, 1, H, W], the fused one first, as logits."""

    def __init__(self, small: bool = False, config: Config | None = None):
        super().__init__()
        self.small, self.config = small, config or VARIANTS["u2netp" if small else "u2net"]
        middle = [16] * 6 if small else [32, 32, 64, 128, 256, 256]
        outputs = [64] * 6 if small else [64, 128, 256, 512, 512, 512]
        depths = [7, 6, 5, 4, 4, 4]
        for index in range(6):
            inputs = 3 if index == 0 else outputs[index - 1]
            stage = ResidualU(depths[index], inputs, middle[index], outputs[index], dilated=index >= 4)
            self.add_module(f"stage{index + 1}", stage)
        up = outputs[:1] + outputs[:4]  # what stages 1d to 5d give
        for index in range(5):
            below = outputs[5] if index == 4 else up[index + 1]
            middle_up = [16, 32, 64, 128, 256][index] if not small else 16
            stage = ResidualU(depths[index], below + outputs[index], middle_up, up[index], dilated=index == 4)
            self.add_module(f"stage{index + 1}d", stage)
        for index, width in enumerate([*up, outputs[5]], start=1):
            self.add_module(f"side{index}", nn.Conv2d(width, 1, 3, padding=1))
        self.outconv = nn.Conv2d(SIDES, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return sides(self, stages(self, images))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of each of the seven maps, of photographs [N, 3, H, W] and their masks as bytes."""
        images = batch.images.float()
        brightest = images.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        masks = torch.stack([target.semantic for target in batch.targets if target.semantic is not None])[:, None]
        whitest = masks.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)  # masks of 0 and 1 are as good as 0 and 255
        losses = map_losses(self(normalise(images / brightest)), masks.float() / whitest)
        return dict(zip(OUTPUTS, losses, strict=True))

    def preprocess(self, image: NDArray[np.uint8], size: int = 0) -> Tensor:
        """A photograph [H, W, 3] RGB -> network input [3, size, size]; its proportions are not kept."""
        size = size or self.config.test.size
        small = resize_smoothed(image, size, size)
        normed = (small / max(float(small.max()), 1e-6) - np.array(MEAN)) / np.array(STD)
        return torch.from_numpy(normed.astype(np.float32)).permute(2, 0, 1).contiguous()

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8], size: int = 0) -> NDArray[np.uint8]:
        """How salient each pixel of a photograph is, 0 to 255: [H, W]"""
        return self.mattes([image], size)[0]

    @torch.inference_mode()
    def mattes(self, images: Sequence[NDArray[np.uint8]], size: int = 0) -> list[NDArray[np.uint8]]:
        """Likewise of several photographs, which go through the network together."""
        inputs = torch.stack([self.preprocess(image, size) for image in images]).to(self.outconv.weight.device)
        maps = stretch(self(inputs)[0][:, 0].float().sigmoid())  # [N, size, size]
        return [as_picture(each, image.shape[:2]) for each, image in zip(maps, images, strict=True)]


def stages(network: nn.Module, features: Tensor, first: int = 1) -> dict[str, Tensor]:
    """Down to stage 6 and up again to the first one: every stage's output by its name."""
    found: dict[str, Tensor] = {}
    for index in range(first, 7):
        features = found[f"stage{index}"] = network.get_submodule(f"stage{index}")(features)
        features = halve(features) if index < 6 else features
    for index in range(5, first - 1, -1):
        sibling = found[f"stage{index}"]
        both = torch.cat((resize_like(features, sibling), sibling), dim=1)
        features = found[f"stage{index}d"] = network.get_submodule(f"stage{index}d")(both)
    return found


def sides(network: nn.Module, found: dict[str, Tensor], first: int = 1) -> list[Tensor]:
    """The logits of all of them, then of each stage on the way up."""
    outputs = {index: found["stage6" if index == 6 else f"stage{index}d"] for index in range(first, 7)}
    logits = [network.get_submodule(f"side{index}")(output) for index, output in outputs.items()]
    logits = [resize_like(each, logits[0]) for each in logits]
    return [network.get_submodule("outconv")(torch.cat(logits, dim=1)), *logits]


def map_losses(maps: list[Tensor], wanted: Tensor) -> list[Tensor]:
    """Binary cross entropy of each of the seven maps against masks [N, 1, H, W] (paper, equation 1: their sum).

    On the maps' logits, where the original takes probabilities.
    """
    return [F.binary_cross_entropy_with_logits(logits.float(), wanted.float()) for logits in maps]


def stretch(maps: Tensor) -> Tensor:
    """Maps [..., H, W], each from 0 to 1; a constant one becomes 0, where the original divides by zero."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def as_picture(values: Tensor, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A map of 0 to 1 at another size (height, width), in bytes; as Pillow does it, which the original uses."""
    picture = Image.fromarray((values.cpu().numpy() * 255).astype(np.uint8))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def normalise(images: Tensor) -> Tensor:
    """Images [N, 3, H, W], each divided by its brightest value, as the network wants them."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images - mean) / std


def halve(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 2, stride=2, ceil_mode=True)


def resize_like(features: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(features, other.shape[2:], mode="bilinear", align_corners=False)
