"""The training set: photographs through their augmentation, each with a caption, and the tokens that name its objects.

The caption of an image is its own where the data set has captions, else the list of classes, all or some of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from common.data.batches import Target
from common.data.coco import LabelledImages
from common.data.loader import Item, Key, TrainingSet, mix
from common.errors import UserError
from glip.captioned_data import CaptionedDataset
from glip.config import Augment, Config, Text
from glip.prompts import Caption, Wording, clean
from glip.tokeniser import Tokeniser

# (image, the labels in it) -> its caption; draws from torch's generator
Writer = Callable[[int, Sequence[int]], Caption]
CAPTION = 77  # mixed into the seed, so that a caption is not drawn with the numbers that its image was


@dataclass
class GroundingTarget(Target):
    """A target with its image's caption."""

    caption: str = ""
    positive: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.bool))  # [n, max tokens]


def ground(target: Target, caption: Caption, tokeniser: Tokeniser) -> GroundingTarget:
    """A target whose labels are positions in the caption's phrases or, where it has them, its labels."""
    rows = positive_rows(tokeniser.positions(caption.text, caption.phrases), tokeniser.max_tokens)
    places = {label: row for row, label in enumerate(caption.labels)}
    chosen = torch.tensor([places[label] for label in target.labels.tolist()], dtype=torch.int64)
    values = {each.name: getattr(target, each.name) for each in fields(Target)}
    return GroundingTarget(**values, caption=caption.text, positive=rows[chosen].to(target.labels.device))


def positive_rows(positions: Sequence[Sequence[int]], tokens: int) -> Tensor:
    """[phrases, tokens] bool: which tokens each phrase has."""
    rows = torch.zeros(len(positions), tokens, dtype=torch.bool)
    for row, places in enumerate(positions):
        rows[row, [place for place in places if place < tokens]] = True
    return rows


class GroundingSet:
    """A training set whose targets carry captions; all a function of (seed, epoch, index)."""

    def __init__(self, training_set: TrainingSet, write: Writer, tokeniser: Tokeniser):
        self.training_set, self.write, self.tokeniser = training_set, write, tokeniser
        self.dataset = training_set.dataset

    def __len__(self) -> int:
        return len(self.training_set)

    def __getitem__(self, key: Key) -> Item | UserError:
        item = self.training_set[key]
        if isinstance(item, UserError):
            return item
        image, target = item
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(mix(self.training_set.seed, *key, CAPTION))
            caption = self.write(key[1], target.labels.tolist())
        return image, ground(target, caption, self.tokeniser)


def writer(dataset: LabelledImages, config: Config, tokeniser: Tokeniser) -> Writer:
    """How the images of a data set get their captions."""
    settings = config.augment, config.text, tokeniser
    if not isinstance(dataset, CaptionedDataset):
        names = [clean(name) for name in dataset.class_names]
        return lambda index, labels: list_of_names(labels, names, *settings)

    def write(index: int, labels: Sequence[int]) -> Caption:
        if torch.rand(()) >= config.augment.listed:
            return dataset.caption(index)
        return list_of_phrases(dataset, index, *settings)

    return write


def list_of_names(
    present: Sequence[int], names: Sequence[str], augment: Augment, text: Text, tokeniser: Tokeniser
) -> Caption:
    """The names of the classes in an image, and of others that are not; as many of those as fit, all if they may."""
    others = sorted(set(range(len(names))) - set(present))
    limit = len(others)
    if augment.negatives >= 0:
        # half of the captions have as many as they may, the others fewer
        limit = augment.negatives if torch.rand(()) < 0.5 else int(torch.randint(1, augment.negatives + 1, ()))
        others = drawn(others)
    chosen = within_length([*sorted(set(present)), *others[:limit]], len(set(present)), names, text, tokeniser)
    chosen = drawn(chosen) if augment.shuffle else sorted(chosen)
    listed = Caption()
    for label in chosen:
        listed = listed.extended(label, Wording(names[label]), text.separator)
    return listed


def list_of_phrases(
    dataset: CaptionedDataset, index: int, augment: Augment, text: Text, tokeniser: Tokeniser
) -> Caption:
    """A caption's phrases one after the other as classes are listed, with other images' phrases among them."""
    names = dataset.phrase_names
    own = [names.index(dataset.name(index, phrase)) for phrase in dataset.phrases(index)]
    listed = list_of_names(own, names, replace(augment, shuffle=True), text, tokeniser)
    kept = [
        (phrase, own.index(label)) for phrase, label in zip(listed.phrases, listed.labels, strict=True) if label in own
    ]
    return Caption(listed.text, tuple(phrase for phrase, _ in kept), tuple(label for _, label in kept))


def within_length(
    labels: Sequence[int], kept: int, names: Sequence[str], text: Text, tokeniser: Tokeniser
) -> list[int]:
    """The first `kept` labels, and of the others as many as the longest caption holds."""
    separator = tokeniser.length(text.separator.strip()) - 2
    left = text.max_tokens - 2 + separator  # [CLS] and [SEP] are not counted, nor is a separator after the last
    chosen = []
    for number, label in enumerate(labels):
        left -= tokeniser.length(names[label]) - 2 + separator
        if number < kept or left >= 0:
            chosen.append(label)
    return chosen


def drawn(values: Sequence[int]) -> list[int]:
    """In random order."""
    return [values[place] for place in torch.randperm(len(values)).tolist()]
