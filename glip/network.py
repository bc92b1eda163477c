"""GLIP (arXiv 2112.03857): detection as grounding. Swin, pyramid, BERT, and the head where image and text meet.

- What to find is a prompt; `class_names` are only the prompt when none is given.
- A caption is read once and remembered for all images; several captions share an image's features.
- Images come in blue, green, red, as the published weights expect.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.data.batches import Batch, Prepared, Target, normalise, round_up
from common.data.images import resize_antialiased
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import one_or_many, predict_in_groups
from glip.backbone import Swin
from glip.boxes import anchors_of
from glip.config import Config
from glip.dynamic_head import Answers, DynamicHead
from glip.grounding import GroundingTarget, ground
from glip.losses import glip_losses, hide_words, word_loss
from glip.postprocess import Candidates, detections, instances, phrase_tokens
from glip.prompts import Caption, Prompt, class_prompt, read_prompt
from glip.pyramid import Pyramid
from glip.sizes import input_size
from glip.text_encoder import TextEncoder, Tokens, WordGuess
from glip.tokeniser import Tokeniser

DIVISOR = 32  # inputs are padded to a multiple of it


class ReadCaption(NamedTuple):
    """A caption after BERT."""

    tokens: Tokens  # of one row
    hidden: Tensor  # [1, T, width]
    positions: list[list[int]]  # the tokens of each phrase
    labels: Tensor  # [phrases] int64, their places in the prompt's names


class GLIP(nn.Module):
    """Finds in images what a text names."""

    def __init__(self, config: Config, class_names: Sequence[str], category_ids: Sequence[int] = ()):
        super().__init__()
        self.config, self.class_names = config, tuple(class_names)
        self.category_ids = tuple(category_ids) or tuple(range(1, len(self.class_names) + 1))  # in COCO JSON
        model = config.model
        shape = model.swin_width, model.swin_depths, model.swin_heads, model.window
        self.backbone = Swin(*shape, model.drop_path, model.checkpointing)
        self.pyramid = Pyramid(self.backbone.channels, model.channels, model.drop_block)
        self.text = TextEncoder(config.text, model.checkpointing)
        self.head = DynamicHead(model, config.text)
        self.word_guess = WordGuess(config.text) if model.masked_language_weight else None
        self.prompt: Prompt | None = None  # what to find unless predict() is told otherwise; None: the class names
        self._remembered: tuple[object, list[ReadCaption]] | None = None

    @cached_property
    def tokeniser(self) -> Tokeniser:
        """Opened when first asked for: converting or inspecting weights needs no vocabulary."""
        return Tokeniser(self.config.text.vocabulary, self.config.text.max_tokens)

    def train(self, mode: bool = True) -> Self:
        """Parts of which nothing is trained stay as in prediction: their dropout is off."""
        super().train(mode)
        for part in (self.backbone, self.pyramid, self.text):
            part.train(mode and any(parameter.requires_grad for parameter in part.parameters()))
        return self

    def forward(self, images: Tensor, tokens: Tokens) -> Answers:
        """Normalised images [N, 3, H, W], H and W multiples of 32, each with its caption."""
        answers: Answers = self.head(self.pyramid(self.backbone(images)), self.text(tokens), tokens.mask)
        return answers

    def preprocess(self, image: NDArray[np.uint8]) -> Prepared:
        """A photograph [H, W, 3] RGB -> network input: scaled as the original does, normalised, padded with 0."""
        original = image.shape[0], image.shape[1]
        height, width = input_size(*original, self.config.test)
        pixels = torch.from_numpy(resize_antialiased(image, height, width)).permute(2, 0, 1)
        padded = F.pad(pixels, (0, round_up(width, DIVISOR) - width, 0, round_up(height, DIVISOR) - height))
        return Prepared(self.normalised(padded[None], torch.tensor([[height, width]]))[0], original, (height, width))

    def normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        """uint8 RGB [N, 3, H, W] -> float BGR; what lies outside each image's size is 0."""
        return normalise(images.flip(1), sizes, self.config.model.mean, self.config.model.std)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted loss terms of a training batch; targets without a caption get the list of class names."""
        model, targets = self.config.model, [self.grounded(target) for target in batch.targets]
        tokens = self.tokeniser.tokens([target.caption for target in targets]).to(batch.images.device)
        ids, length = tokens.ids, tokens.ids.shape[1]
        if self.word_guess is not None:
            hideable = tokens.mask & (ids != self.tokeniser.start) & (ids != self.tokeniser.end)
            hidden, chosen = hide_words(
                ids, hideable, model.masked_words, self.tokeniser.hidden, self.config.text.words
            )
            tokens = Tokens(hidden, tokens.mask)
        answers: Answers = self(self.normalised(batch.images, batch.sizes), tokens)
        sizes = [(level.shape[-2], level.shape[-1]) for level in answers.deltas]
        losses = glip_losses(
            answers,
            anchors_of(sizes, model.anchor_scale, batch.images.device),
            [target.boxes for target in targets],
            [target.positive[:, :length] for target in targets],
            tokens.mask,
            model,
        )
        if self.word_guess is not None:
            guesses = self.word_guess(answers.text)
            losses["words"] = model.masked_language_weight * word_loss(guesses, ids, chosen)
        return losses

    def grounded(self, target: Target) -> GroundingTarget:
        if isinstance(target, GroundingTarget):
            return target
        listed = class_prompt(self.class_names, self.tokeniser, self.config.text)
        return ground(target, listed.captions[0], self.tokeniser)

    def read(self, prompt: Prompt | str | Sequence[str] | None) -> tuple[Prompt, list[ReadCaption]]:
        """A prompt as the network takes it; BERT is asked once for a prompt, until its weights change."""
        prompt = self.prompt or self.class_names if prompt is None else prompt
        if isinstance(prompt, str):
            prompt = read_prompt(prompt, self.tokeniser, self.config.text)
        elif not isinstance(prompt, Prompt):
            prompt = class_prompt(prompt, self.tokeniser, self.config.text)
        weights = list(self.text.parameters())
        device = weights[0].device
        changes = [weight._version for weight in weights]  # counts what optimizers and loading do to them
        situation = (prompt, changes, device, weights[0].dtype, torch.is_autocast_enabled(device.type), self.training)
        if self._remembered is None or self._remembered[0] != situation:
            self._remembered = situation, [self._read(caption, device) for caption in prompt.captions]
        return prompt, self._remembered[1]

    def _read(self, caption: Caption, device: torch.device) -> ReadCaption:
        tokens = self.tokeniser.tokens([caption.text]).to(device)
        positions = self.tokeniser.positions(caption.text, caption.phrases)
        return ReadCaption(tokens, self.text(tokens), positions, torch.tensor(caption.labels, device=device))

    @one_or_many
    @torch.inference_mode()
    def predict(self, images: Sequence[Source], prompt: Prompt | str | Sequence[str] | None = None) -> list[Instances]:
        """Photographs (files or [H, W, 3] RGB arrays) -> what the prompt names in them.

        A prompt is a list of names, a text ("person. red cup." or a caption), or a Prompt; none: the class names.
        """
        prompt, captions = self.read(prompt)
        names = prompt.names

        def answer(inputs: Tensor) -> list[Answers]:
            levels = self.pyramid(self.backbone(inputs))
            return [self.ask(levels, caption) for caption in captions]

        def result(answers: list[Answers], row: int, prepared: Prepared) -> Instances:
            found = [self.found(each, row, caption, prepared) for each, caption in zip(answers, captions, strict=True)]
            return instances(found, prepared, names)

        return predict_in_groups(images, self.preprocess, answer, result, next(self.parameters()).device)

    def ask(self, levels: Sequence[Tensor], caption: ReadCaption) -> Answers:
        """The head's answers for a batch of images and one caption."""
        count = len(levels[0])
        hidden, mask = caption.hidden.expand(count, -1, -1), caption.tokens.mask.expand(count, -1)
        answers: Answers = self.head(levels, hidden, mask)
        return answers

    def found(self, answers: Answers, row: int, caption: ReadCaption, prepared: Prepared) -> Candidates:
        device, length = caption.hidden.device, caption.hidden.shape[1]
        tokens = phrase_tokens(caption.positions, length, device)
        settings = self.config
        own = detections(answers, row, tokens, prepared, settings.model.anchor_scale, settings.test)
        return own._replace(labels=caption.labels[own.labels])
