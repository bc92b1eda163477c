"""Data sets of captions whose phrases have boxes, in MDETR's format: Flickr30k's, GoldG's, the built-in one.

COCO's annotation file with two things more: each image has a `caption`, and each annotation `tokens_positive`, the
characters of the caption that name it. `tokens_positive_eval` of an image lists the phrases to score.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.data.coco import CocoDataset, Sample
from common.errors import UserError
from common.files import read_text
from common.run.settings import Data, Training
from glip.prompts import Caption, Phrase
from maskworks import commands, shapes
from maskworks.shards.columns import kept

IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot"}


class CaptionedDataset:
    """Images with captions; a sample's labels are positions in its caption's phrases."""

    def __init__(
        self,
        images: Sequence[str | Path],
        annotations: Sequence[str | Path],
        *,
        limit: int | None = None,
        keep_empty: bool = True,
    ):
        if len(annotations) != 1:
            raise UserError(f"{len(annotations)} files of captions: expected one; join them first")
        self.boxes = CocoDataset(images, annotations, limit=limit, keep_empty=keep_empty, read=kept)
        self.annotation_files = self.boxes.annotation_files
        self.sizes, self.image_ids = self.boxes.sizes, self.boxes.image_ids
        file = self.annotation_files[0]
        content = json.loads(read_text(file))
        entries = {entry["id"]: entry for entry in content["images"]}
        chosen = [entries[identity] for identity in self.image_ids.tolist()]
        self.texts = [caption_of(entry, file) for entry in chosen]
        annotated = {entry["id"]: (phrase_of(entry, file), entry.get("held_out")) for entry in content["annotations"]}
        own = [annotated[identity] for identity in self.boxes.source_ids.tolist()]
        self.owners = [phrase for phrase, _ in own]  # each box's phrase
        self.held_out = np.array([held_out for _, held_out in own], bool)
        self.scored = [
            [as_phrase(spans) for spans in entry.get("tokens_positive_eval", ())] or None for entry in chosen
        ]
        mentions = ((index, phrase) for index in range(len(self)) for phrase in self.phrases(index) if phrase)
        self.phrase_names = tuple(sorted({self.name(*mention) for mention in mentions}))
        self.class_names: tuple[str, ...] = ()  # there are phrases, no classes; PhraseClasses sees them as such
        self.category_ids: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Sample:
        sample = self.boxes[index]
        phrases = self.phrases(index)
        sample.labels = np.array([phrases.index(owner) for owner in self.owners_of(index)], np.int64)
        return sample

    def path(self, index: int) -> Path:
        return self.boxes.path(index)

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        return self.boxes.polygons(index)

    def owners_of(self, index: int) -> list[Phrase]:
        """For each box of an image the phrase that names it."""
        return self.owners[self.boxes.offsets[index] : self.boxes.offsets[index + 1]]

    def phrases(self, index: int) -> list[Phrase]:
        """The phrases of an image's caption that have boxes, in the order of the text."""
        return sorted(set(self.owners_of(index)))

    def caption(self, index: int) -> Caption:
        return Caption.naming(self.texts[index], self.phrases(index))

    def name(self, index: int, phrase: Phrase) -> str:
        """A phrase as the name of a class: "people in blue" -> "person in blue"."""
        words = " ".join(self.texts[index][start:end] for start, end in phrase)
        return " ".join(singular(word) for word in words.lower().split())


class PhraseClasses:
    """A captioned data set with its phrases' names as classes, to be scored like any detector's data."""

    def __init__(self, captioned: CaptionedDataset):
        self.captioned, self.boxes = captioned, captioned.boxes
        self.annotation_files = self.boxes.annotation_files
        self.sizes, self.image_ids = self.boxes.sizes, self.boxes.image_ids
        self.class_names = captioned.phrase_names
        self.category_ids = tuple(range(1, len(self.class_names) + 1))
        places = {name: number for number, name in enumerate(self.class_names)}
        self.labels = np.array(
            [places[captioned.name(i, phrase)] for i in range(len(captioned)) for phrase in captioned.owners_of(i)],
            np.int64,
        )
        self.held_out = {self.class_names[label] for label in self.labels[captioned.held_out].tolist()}

    def __len__(self) -> int:
        return len(self.captioned)

    def __getitem__(self, index: int) -> Sample:
        sample = self.boxes[index]
        sample.labels = self.labels[self.boxes.offsets[index] : self.boxes.offsets[index + 1]]
        return sample

    def path(self, index: int) -> Path:
        return self.captioned.path(index)

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        return self.captioned.polygons(index)

    def annotations_json(self) -> dict[str, Any]:
        content = self.boxes.annotations_json()
        for entry, label in zip(content["annotations"], self.labels.tolist(), strict=True):
            entry["category_id"] = self.category_ids[label]
        content["categories"] = [{"id": i, "name": n} for i, n in zip(self.category_ids, self.class_names, strict=True)]
        return content


def open_data(data: Data, split: shapes.Split, settings: Training) -> CocoDataset | CaptionedDataset:
    """The training or validation set that the configuration names; without annotations, the built-in captions."""
    data = shapes.fill_in(data, split, annotations="captions")
    if any(has_captions(Path(file)) for file in commands.files_of(data, split)[1]):
        return commands.open_as(CaptionedDataset, data, split, settings)
    return commands.open_dataset(data, split, settings)


def has_captions(file: Path) -> bool:
    """Whether an annotation file is of this kind: its first image has a caption."""
    try:
        content = json.loads(read_text(file))
        return isinstance(content, dict) and "caption" in (content.get("images") or [{}])[0]
    except (OSError, ValueError, TypeError, AttributeError):
        return False  # whoever reads it next will say what is wrong with it


def caption_of(entry: dict[str, Any], file: Path) -> str:
    if not isinstance(entry.get("caption"), str):
        raise UserError(f"{file}: image {entry.get('id')} has no caption; expected one for each image")
    return str(entry["caption"])


def phrase_of(entry: dict[str, Any], file: Path) -> Phrase:
    try:
        return as_phrase(entry.get("tokens_positive", ()))
    except (TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{file}: annotation {entry.get('id')}: tokens_positive is {entry['tokens_positive']!r}; expected "
            "[[start, end], ..], characters of the caption"
        ) from error


def as_phrase(spans: Sequence[Sequence[int]]) -> Phrase:
    return tuple((int(start), int(end)) for start, end in spans)


def singular(word: str) -> str:
    """circles -> circle, crosses -> cross, people -> person; grass stays."""
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
