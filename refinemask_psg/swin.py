"""Swin Transformer (arXiv 2103.14030) as the detection backbones have it, exact for images of any size; two in one.

- Maps are padded to whole windows after a block's first norm, so padding is 0 and takes part in attention.
- Every other block shifts its windows, also where the map is no larger than one; the mask knows the padded size.
- Names of layers are those of the published weights.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.swin_transformer import PatchMerging
from torchvision.ops import StochasticDepth

EMBEDDING = 96
DEPTHS, SMALL_DEPTHS = (2, 2, 6, 2), (2, 2, 18, 2)  # of Swin-T and Swin-S, which differ in nothing else
HEADS = (3, 6, 12, 24)
WINDOW = 7
POSITIONS = 56  # patches along a side of the 224 pixels that Swin was pretrained on
MASKED = -100.0  # added to the attention between pixels that the shift brought together


class Swin(nn.Module):
    """Swin-T or -S: images, or another Swin's embedding, -> the four stages' normed outputs."""

    def __init__(
        self,
        drop_path: float,
        checkpoint_blocks: bool,
        embeds: bool,
        absolute_positions: bool,
        depths: tuple[int, ...] = DEPTHS,
    ):
        super().__init__()
        self.channels = [EMBEDDING * 2**stage for stage in range(4)]
        self.patch_embed = PatchEmbedding() if embeds else None
        self.absolute_pos_embed: nn.Parameter | None = None
        if embeds and absolute_positions:
            self.absolute_pos_embed = nn.Parameter(torch.zeros(1, EMBEDDING, POSITIONS, POSITIONS))
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        blocks = sum(depths)
        drops = [drop_path * block / (blocks - 1) for block in range(blocks)]  # deeper blocks are left out more often
        self.layers = nn.ModuleList()
        for stage, (channels, heads, depth) in enumerate(zip(self.channels, HEADS, depths, strict=True)):
            own, drops = drops[:depth], drops[depth:]
            self.layers.append(Stage(channels, heads, own, checkpoint_blocks, last=stage == 3))
        for stage, channels in enumerate(self.channels):
            self.add_module(f"norm{stage}", nn.LayerNorm(channels))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Normalised images [N, 3, H, W] -> one vector for each 4 x 4 patch [N, h, w, C]."""
        assert self.patch_embed is not None
        patches: Tensor = self.patch_embed(images)
        if self.absolute_pos_embed is not None:
            size = patches.shape[1:3]
            positions = F.interpolate(self.absolute_pos_embed, size, mode="bicubic", align_corners=False)
            patches = patches + positions.permute(0, 2, 3, 1)
        return patches

    def stage(self, index: int, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, h, w, C] -> the stage's normed output [N, C, h, w], and the next stage's input."""
        output, following = self.layers[index](features)
        normed = self.get_submodule(f"norm{index}")(output)
        return normed.permute(0, 3, 1, 2).contiguous(), following

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """Normalised images [N, 3, H, W] -> one list of features, at strides 4, 8, 16, 32."""
        features, outputs = self.embed(images), []
        for index in range(4):
            output, features = self.stage(index, features)
            outputs.append(output)
        return [outputs]


class CompositeSwin(nn.Module):
    """CBNetV2's dense composition (arXiv 2107.00420, section 3): an assisting Swin feeds the lead one.

    Images -> the features of both; only the lead's are needed to predict.
    """

    def __init__(self, drop_path: float, checkpoint_blocks: bool, absolute_positions: bool):
        super().__init__()
        self.assisting = Swin(drop_path, checkpoint_blocks, embeds=True, absolute_positions=absolute_positions)
        self.lead = Swin(drop_path, checkpoint_blocks, embeds=False, absolute_positions=False)
        self.channels = self.lead.channels
        # connections[i][j]: from the assisting stage i + j to the lead's stage i
        self.connections = nn.ModuleList(
            nn.ModuleList(connection(self.channels[i + j], self.channels[i]) for j in range(4 - i)) for i in range(4)
        )

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """Normalised images [N, 3, H, W] -> two lists of features, at strides 4, 8, 16, 32."""
        embedded = self.assisting.embed(images)
        sizes, assisting, features = [], [], embedded
        for index in range(4):
            sizes.append((features.shape[1], features.shape[2]))
            output, features = self.assisting.stage(index, features)
            assisting.append(output)
        lead, features = [], embedded
        for index in range(4):
            features = features + self._help(index, assisting, sizes[index])
            output, features = self.lead.stage(index, features)
            lead.append(output)
        return [assisting, lead]

    def _help(self, stage: int, assisting: list[Tensor], size: tuple[int, int]) -> Tensor:
        """What the assisting backbone adds to the lead's input of a stage: [N, h, w, C]."""
        total = self.connections[stage][0](assisting[stage])  # type: ignore[index]
        for offset, layer in enumerate(list(self.connections[stage])[1:], start=1):  # type: ignore[call-overload]
            total = total + F.interpolate(layer(assisting[stage + offset]), size, mode="nearest")
        permuted: Tensor = total.permute(0, 2, 3, 1)
        return permuted


def connection(inputs: int, outputs: int) -> nn.Module:
    """Nothing between equals, else a 1 x 1 convolution that starts at zero, so that training starts from two Swins."""
    if inputs == outputs:
        return nn.Identity()
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class PatchEmbedding(nn.Module):
    """Images [N, 3, H, W], padded to a multiple of 4 -> patches' vectors [N, h, w, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, EMBEDDING, 4, stride=4)
        self.norm = nn.LayerNorm(EMBEDDING)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        images = F.pad(images, (0, -width % 4, 0, -height % 4))
        normed: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return normed


class Stage(nn.Module):
    """Blocks with straight and shifted windows in turn, then the merging of 2 x 2 pixels for the next stage."""

    def __init__(self, channels: int, heads: int, drops: list[float], checkpoint_blocks: bool, last: bool):
        super().__init__()
        self.checkpoint_blocks = checkpoint_blocks
        self.blocks = nn.ModuleList(
            Block(channels, heads, shift=WINDOW // 2 if index % 2 else 0, drop_path=drop)
            for index, drop in enumerate(drops)
        )
        self.downsample = None if last else PatchMerging(channels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            if self.checkpoint_blocks and torch.is_grad_enabled():
                features = checkpoint(block, features, use_reentrant=False)
            else:
                features = block(features)
        return features, features if self.downsample is None else self.downsample(features)


class Block(nn.Module):
    """Attention within windows, then a perceptron for each pixel; both beside a shortcut."""

    def __init__(self, channels: int, heads: int, shift: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, shift)
        self.norm2 = nn.LayerNorm(channels)
        fc1, fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.mlp = nn.Sequential(OrderedDict(fc1=fc1, gelu=nn.GELU(), fc2=fc2))
        self.drop_path = StochasticDepth(drop_path, "row")

    def forward(self, features: Tensor) -> Tensor:
        features = features + self.drop_path(self.attn(self.norm1(features)))
        added: Tensor = features + self.drop_path(self.mlp(self.norm2(features)))
        return added


class WindowAttention(nn.Module):
    """Attention between the pixels of each window, with a learned bias for each offset (paper, equation 4)."""

    def __init__(self, channels: int, heads: int, shift: int):
        super().__init__()
        self.heads, self.shift = heads, shift
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_position_index(), persistent=False)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        """[N, h, w, C] -> [N, h, w, C]"""
        count, height, width, channels = features.shape
        padded = F.pad(features, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        if self.shift:
            padded = padded.roll((-self.shift, -self.shift), dims=(1, 2))
        size = padded.shape[1:3]
        rows, columns = size[0] // WINDOW, size[1] // WINDOW
        windows = padded.view(count, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3)
        qkv = self.qkv(windows.reshape(count, rows * columns, WINDOW * WINDOW, channels))
        query, key, value = qkv.unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)  # [N, windows, heads, ..]
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # [heads, 49, 49]
        if self.shift:
            bias = bias + shift_mask(size[0], size[1], self.shift, features.device).to(bias.dtype)[:, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        windows = self.proj(attended.transpose(2, 3).flatten(3))
        windows = windows.view(count, rows, columns, WINDOW, WINDOW, channels)
        mixed: Tensor = windows.transpose(2, 3).reshape(count, *size, channels)
        if self.shift:
            mixed = mixed.roll((self.shift, self.shift), dims=(1, 2))
        return mixed[:, :height, :width]


def relative_position_index() -> Tensor:
    """For each pair of a window's pixels, the row of the bias table for their offset. [49, 49]"""
    side = torch.arange(WINDOW)
    pixels = torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1)  # [2, 49]
    offsets = pixels[:, :, None] - pixels[:, None, :] + WINDOW - 1
    return offsets[0] * (2 * WINDOW - 1) + offsets[1]


def shift_mask(height: int, width: int, shift: int, device: torch.device) -> Tensor:
    """What is added to the attention in shifted windows, so that only true neighbours see each other. [windows, 49, 49]

    The shift wraps around: a pixel belongs to one of three bands of rows and of columns.
    """
    rows, columns = (_bands(length, shift, device) for length in (height, width))
    regions = 3 * rows[:, None] + columns  # [height, width]
    windows = regions.view(height // WINDOW, WINDOW, width // WINDOW, WINDOW).transpose(1, 2).reshape(-1, WINDOW**2)
    return torch.where(windows[:, :, None] == windows[:, None, :], 0.0, MASKED)


def _bands(length: int, shift: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    return (position >= length - WINDOW).long() + (position >= length - shift).long()
