"""U-2-Net (arXiv 2005.09007): a U of small Us, which finds what is salient in an image.

- Names of layers are those of the published files u2net.pth and u2netp.pth, which can be loaded as they are.
- The same blocks make up the semantic head (semantic.py).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from common.checkpoint import load_weights, read_published
from refinemask_psg.antialias import resize_antialiased

INPUT_SIZE = 320
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = 6


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

    def __init__(self, small: bool = False):
        super().__init__()
        self.small = small
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
        return self.sides(self.features(images))

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Every stage's output by its name."""
        found: dict[str, Tensor] = {}
        features = images
        for index in range(1, 7):
            features = found[f"stage{index}"] = self.get_submodule(f"stage{index}")(features)
            features = halve(features) if index < 6 else features
        for index in range(5, 0, -1):
            sibling = found[f"stage{index}"]
            both = torch.cat((resize_like(features, sibling), sibling), dim=1)
            features = found[f"stage{index}d"] = self.get_submodule(f"stage{index}d")(both)
        return found

    def sides(self, found: dict[str, Tensor]) -> list[Tensor]:
        names = [*(f"stage{index}d" for index in range(1, 6)), "stage6"]
        logits = [self.get_submodule(f"side{index}")(found[name]) for index, name in enumerate(names, start=1)]
        logits = [resize_like(each, logits[0]) for each in logits]
        return [self.outconv(torch.cat(logits, dim=1)), *logits]

    def preprocess(self, image: NDArray[np.uint8], size: int = INPUT_SIZE) -> Tensor:
        """A photograph [H, W, 3] RGB -> network input [3, size, size]; its proportions are not kept."""
        small = resize_antialiased(image, size, size)
        normed = (small / max(float(small.max()), 1e-6) - np.array(MEAN)) / np.array(STD)
        return torch.from_numpy(normed.astype(np.float32)).permute(2, 0, 1).contiguous()

    @torch.inference_mode()
    def predict(self, image: NDArray[np.uint8], size: int = INPUT_SIZE) -> NDArray[np.uint8]:
        """How salient each pixel of a photograph is, 0 to 255: [H, W]"""
        weight = self.outconv.weight
        maps = self(self.preprocess(image, size)[None].to(weight.device))
        return as_picture(stretch(maps[0].float().sigmoid()[0, 0]), (image.shape[0], image.shape[1]))


class Losses(NamedTuple):
    """The loss of a batch, and of each of the seven maps."""

    total: Tensor
    maps: list[Tensor]


def u2net_loss(maps: list[Tensor], wanted: Tensor) -> Losses:
    """The sum over the maps' logits of binary cross entropy against masks [N, 1, H, W] (paper, equation 1)."""
    each = [F.binary_cross_entropy_with_logits(logits.float(), wanted.float()) for logits in maps]
    return Losses(torch.stack(each).sum(), each)


def load_u2net(file: str | Path) -> U2Net:
    """A published file, u2net.pth or u2netp.pth, as a network ready to predict."""
    weights = read_published(Path(file))[0]
    narrow = weights.get("stage6.rebnconvin.conv_s1.weight")
    model = U2Net(small=narrow is not None and len(narrow) == 64)
    load_weights(model, weights, str(file))
    return model.eval()


def stretch(values: Tensor) -> Tensor:
    """From 0 to 1; a constant map becomes 0, where the original divides by zero."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)


def as_picture(values: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A map of 0 to 1 at another size (height, width), in bytes; as Pillow does it, which the original uses."""
    picture = Image.fromarray((values.cpu().numpy() * 255).astype(np.uint8))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def halve(features: Tensor) -> Tensor:
    return F.max_pool2d(features, 2, stride=2, ceil_mode=True)


def resize_like(features: Tensor, other: Tensor) -> Tensor:
    return F.interpolate(features, other.shape[2:], mode="bilinear", align_corners=False)
