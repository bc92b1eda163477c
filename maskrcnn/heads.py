"""The heads: proposals at every feature pixel, then boxes and masks of the regions that are cut out (RoIAlign)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.ops.guarded_sampling import roi_align
from maskrcnn.backbone import norm_of
from maskrcnn.boxes import sides
from maskrcnn.config import Conventions, Model

# of the regions cut out for the box head; with "c4" it is the mask head's, halved by the fifth stage
BOX_RESOLUTION = 7
CANONICAL_SIDE, CANONICAL_LEVEL = 224, 4  # a region of ImageNet's size is cut out of P4 (FPN, equation 1)
FINEST, COARSEST = 2, 5
MANY_CLASSES = 128  # of which only those that were found get masks


class ProposalHead(nn.Module):
    """Each level's features -> objectness and box deltas of the anchors at every pixel."""

    def __init__(self, channels: int, anchors: int, depth: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.further = nn.Sequential(*(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(depth - 1)))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in (self.conv, *self.further, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """For each level the logits [N, A, h, w] and the deltas [N, 4 A, h, w], anchor by anchor."""
        hidden = [F.relu(self.conv(values)) for values in features]
        for conv in self.further:
            hidden = [F.relu(conv(values)) for values in hidden]
        return [self.objectness(values) for values in hidden], [self.deltas(values) for values in hidden]


def convolutions(inputs: int, width: int, depth: int, norm: Callable[[int], nn.Module] | None) -> nn.Sequential:
    """3x3 convolutions, each with its norm (and then no bias) if there is one, and rectified."""
    units = [nn.Conv2d(inputs if i == 0 else width, width, 3, padding=1, bias=norm is None) for i in range(depth)]
    for conv in units:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    return nn.Sequential(*(conv if norm is None else nn.Sequential(conv, norm(width)) for conv in units))


class BoxHead(nn.Module):
    """Regions -> the logits of the classes, and box deltas for each class."""

    def __init__(self, channels: int, model: Model, classes: int, background_first: bool):
        super().__init__()
        width, norm = model.box_channels, norm_of(model.head_norm)
        depth, convs = (0, 0) if model.neck == "c4" else (model.box_layers, model.box_convs)
        self.convs = convolutions(channels, channels, convs, norm)
        inputs = [channels * BOX_RESOLUTION**2, *[width] * (depth - 1)]
        self.layers = nn.Sequential(*(nn.Linear(inputs[i], width) for i in range(depth)))
        self.category = nn.Linear(width if depth else channels, classes + 1)
        self.outputs = classes + 1 if background_first else classes
        self.deltas = nn.Linear(width if depth else channels, 4 if model.class_agnostic else 4 * self.outputs)
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.weight, a=1)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        for layer, spread in ((self.category, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=spread)
            nn.init.zeros_(layer.bias)

    def features(self, regions: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, width]; without layers of its own, the mean over the region."""
        for conv in self.convs:
            regions = F.relu(conv(regions))
        if not len(self.layers):
            return regions.mean(dim=(2, 3))
        hidden = regions.flatten(1)
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
        return hidden

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """[R, C, h, w] -> logits [R, classes + 1], deltas [R, classes (+ 1), 4]."""
        features = self.features(regions)
        return self.category(features), self.deltas(features).unflatten(1, (-1, 4)).expand(-1, self.outputs, -1)


class MaskHead(nn.Module):
    """Regions -> a mask for each class, at twice their resolution."""

    def __init__(self, inputs: int, model: Model, classes: int, background_first: bool):
        super().__init__()
        width, depth = model.mask_channels, 0 if model.neck == "c4" else model.mask_depth
        self.convs = convolutions(inputs, width, depth, norm_of(model.head_norm))
        self.enlarge = nn.ConvTranspose2d(width if depth else inputs, width, 2, 2)
        self.logits = nn.Conv2d(width, classes + 1 if background_first else classes, 1)
        for layer in (self.enlarge, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def features(self, regions: Tensor) -> Tensor:
        """[R, C, h, w] -> [R, width, 2 h, 2 w]"""
        for conv in self.convs:
            regions = F.relu(conv(regions))
        return F.relu(self.enlarge(regions))

    def forward(self, regions: Tensor) -> Tensor:
        """[R, C, h, w] -> logits [R, classes (+ 1), 2 h, 2 w]."""
        logits: Tensor = self.logits(self.features(regions))
        return logits

    def of_channels(self, regions: Tensor, channels: Tensor) -> Tensor:
        """[R, C, h, w] -> each region's logits in its own of the channels [R], [R, 2 h, 2 w]."""
        every = torch.arange(channels.shape[0], device=channels.device)
        weight, bias = self.logits.weight, self.logits.bias
        if bias is None or len(weight) < MANY_CLASSES or torch.compiler.is_compiling():  # ONNX has no unique
            logits: Tensor = self(regions)[every, channels]
            return logits
        named, own = torch.unique(channels, return_inverse=True)
        named = F.pad(named, (0, 16 - len(named) % 16))  # a convolution to fewer channels would round otherwise
        return F.conv2d(self.features(regions), weight[named], bias[named])[every, own]


def cut_out(
    features: list[Tensor], boxes: list[Tensor], strides: tuple[int, ...], resolution: int, conventions: Conventions
) -> Tensor:
    """RoIAlign of each image's boxes [n, 4], image after image, each from the level it belongs to. [R, C, r, r]"""
    numbered = [F.pad(own, (1, 0), value=image) for image, own in enumerate(boxes)]
    regions = torch.cat(numbered).to(features[0].dtype)  # [R, 5] image, x1, y1, x2, y2

    def align(level: int, rows: Tensor) -> Tensor:
        ratio, aligned = conventions.sampling_ratio, conventions.aligned
        aligned_rows: Tensor = roi_align(features[level], rows, resolution, 1 / strides[level], ratio, aligned)
        return aligned_rows

    if len(features) == 1:
        return align(0, regions)
    levels = level_of(torch.cat(boxes), conventions)
    result = features[0].new_zeros(regions.shape[0], features[0].shape[1], resolution, resolution)
    for level in range(len(features)):
        rows = (levels == level).nonzero().squeeze(1)
        result = result.index_copy(0, rows, align(level, regions[rows]))
    return result


def level_of(boxes: Tensor, conventions: Conventions) -> Tensor:
    """The index, from 0 for P2, of the level that each box is cut out of: the finer, the smaller it is."""
    side = sides(boxes, conventions.inclusive_corners).prod(dim=1).sqrt()
    if conventions.levels == "mmdetection":
        finest_side = CANONICAL_SIDE / 2 ** (CANONICAL_LEVEL - FINEST)
        return torch.log2(side / finest_side + 1e-6).floor().clamp(0, COARSEST - FINEST).long()
    if conventions.levels == "torchvision":
        level = CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE) + 1e-6
    else:
        least = 1e-8 if conventions.levels == "detectron2" else 1e-6
        level = CANONICAL_LEVEL + torch.log2(side / CANONICAL_SIDE + least)
    return level.floor().clamp(FINEST, COARSEST).long() - FINEST
