"""Early fusion (paper, section 3.2): places of the image and tokens of the caption attend to each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from glip.text_encoder import bounded


class Fusion(nn.Module):
    """Levels [N, C, H, W] and text [N, T, width], each with what it took from the other.

    What is taken is added to the NORMALISED features, not to those that came in: published weights count on it.
    """

    def __init__(self, channels: int, text_width: int, width: int, heads: int, dropout: float, blocks: int):
        super().__init__()
        self.image_norm, self.text_norm = nn.LayerNorm(channels), nn.LayerNorm(text_width)
        self.attention = TwoWayAttention(channels, text_width, width, heads, dropout)
        self.image_gain = nn.Parameter(torch.full((channels,), 1 / blocks))
        self.text_gain = nn.Parameter(torch.full((text_width,), 1 / blocks))

    def forward(self, levels: Sequence[Tensor], text: Tensor, mask: Tensor) -> tuple[list[Tensor], Tensor]:
        places = [level.shape[-2] * level.shape[-1] for level in levels]
        image = self.image_norm(torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1))  # [N, P, C]
        text = self.text_norm(text)
        for_image, for_text = self.attention(image, text, mask)
        image = image + self.image_gain * for_image
        text = text + self.text_gain * for_text
        parts = image.transpose(1, 2).split(places, dim=2)
        return [part.reshape(level.shape) for part, level in zip(parts, levels, strict=True)], text


class TwoWayAttention(nn.Module):
    """One matrix of scores between places and tokens, read along its rows and along its columns."""

    def __init__(self, channels: int, text_width: int, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.dropout = nn.Dropout(dropout)
        self.image_query, self.image_value = nn.Linear(channels, width), nn.Linear(channels, width)
        self.text_key, self.text_value = nn.Linear(text_width, width), nn.Linear(text_width, width)
        self.image_output, self.text_output = nn.Linear(width, channels), nn.Linear(width, text_width)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image [N, P, C], text [N, T, width], mask [N, T] bool; what each takes from the other."""
        queries, image_values = self._split(self.image_query(image) * self.scale), self._split(self.image_value(image))
        keys, text_values = self._split(self.text_key(text)), self._split(self.text_value(text))
        scores = bounded(queries @ keys.transpose(-2, -1))  # [N, heads, P, T]
        over_text = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)
        over_image = scores.transpose(-2, -1).softmax(dim=-1)  # padded places of the image take part, as in training
        for_image = self.dropout(over_text) @ text_values
        for_text = self.dropout(over_image) @ image_values
        return self.image_output(self._join(for_image)), self.text_output(self._join(for_text))

    def _split(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)  # [N, heads, P or T, width / heads]

    def _join(self, values: Tensor) -> Tensor:
        return values.transpose(1, 2).flatten(2)
