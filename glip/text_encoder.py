"""The language side: BERT, and the layers of its kind between the blocks of the head.

Captions need not be padded to the full length: padding is hidden from every attention, so real tokens come out the
same without it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from common.errors import needing
from glip.config import Text

NORM_EPSILON = 1e-12  # of BERT's layer norms
LARGEST = 50_000.0  # values are kept within what half precision can hold


@dataclass
class Tokens:
    """Captions as the network reads them."""

    ids: Tensor  # [N, T] int64, [CLS] .. [SEP] and padding
    mask: Tensor  # [N, T] bool, False at the padding

    def to(self, device: torch.device) -> "Tokens":
        return Tokens(self.ids.to(device, non_blocking=True), self.mask.to(device, non_blocking=True))


class TextEncoder(nn.Module):
    """BERT's last layer; with a trainable prompt, a vector for each place is added to it."""

    def __init__(self, settings: Text, checkpointing: bool):
        super().__init__()
        with needing("GLIP", "transformers tokenizers"):  # not above: the other packages' programs know of GLIP too
            from transformers import BertConfig, BertModel
        self.bert = BertModel(
            BertConfig(
                vocab_size=settings.words,
                hidden_size=settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=settings.inner_width,
                max_position_embeddings=settings.positions,
                hidden_dropout_prob=settings.dropout,
                attention_probs_dropout_prob=settings.dropout,
                layer_norm_eps=NORM_EPSILON,
            ),
            add_pooling_layer=False,
        )
        words = self.bert.embeddings.word_embeddings
        nn.init.normal_(words.weight, std=settings.embedding_std)
        with torch.no_grad():
            words.weight[words.padding_idx] = 0
        self.checkpointing = checkpointing
        self.prompt = nn.Embedding(settings.prompt_rows, settings.width) if settings.prompt_rows else None
        if self.prompt is not None:
            nn.init.zeros_(self.prompt.weight)

    def forward(self, tokens: Tokens) -> Tensor:
        """[N, T, width]"""
        if self.checkpointing and self.training:
            hidden = checkpoint(self._read, tokens.ids, tokens.mask, use_reentrant=False)
        else:
            hidden = self._read(tokens.ids, tokens.mask)
        return hidden if self.prompt is None else hidden + self.prompt.weight[: hidden.shape[1]]

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden: Tensor = self.bert(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return hidden


class TextLayer(nn.Module):
    """One layer as BERT's: self-attention of the tokens, then a two-layer perceptron, each normalised afterwards."""

    def __init__(self, settings: Text):
        super().__init__()
        width = settings.width
        self.heads, self.dropout = settings.heads, nn.Dropout(settings.dropout)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.inner, self.outer = nn.Linear(width, settings.inner_width), nn.Linear(settings.inner_width, width)
        self.norm = nn.LayerNorm(width, NORM_EPSILON)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Text [N, T, width], mask [N, T] bool."""
        queries, keys, values = (
            bounded(layer(text)).reshape(*text.shape[:2], self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # [N, heads, T, width / heads]
        dropout = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(queries, keys, values, mask[:, None, None], dropout)
        attended = self.dropout(self.projection(mixed.transpose(1, 2).flatten(2)))
        text = self.attention_norm(bounded(attended) + text)
        transformed = self.dropout(self.outer(bounded(F.gelu(bounded(self.inner(text))))))
        return bounded(self.norm(bounded(transformed) + text))


class WordGuess(nn.Module):
    """Which word stands at each place: the masked language model's head. [N, T, width] -> [N, T, words]"""

    def __init__(self, settings: Text):
        super().__init__()
        self.transform = nn.Linear(settings.width, settings.width)
        self.norm = nn.LayerNorm(settings.width, NORM_EPSILON)
        self.decoder = nn.Linear(settings.width, settings.words)

    def forward(self, text: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.norm(F.gelu(self.transform(text))))
        return logits


def bounded(values: Tensor) -> Tensor:
    return values.clamp(-LARGEST, LARGEST)
