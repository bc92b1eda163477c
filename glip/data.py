"""Opening data sets: with captions or with classes, as the annotation file is."""

from pathlib import Path

from common.data.coco import CocoDataset
from common.run.commands import files_of
from common.run.settings import Data, Training
from glip.captioned import CaptionedDataset, has_captions
from maskworks import shapes


def open_data(data: Data, split: shapes.Split, settings: Training) -> CocoDataset | CaptionedDataset:
    """The training or validation set that the configuration names; without annotations, the built-in captions."""
    images, annotations = files_of(shapes.fill_in(data, split, annotations="captions"), split)
    keep_empty, limit = data.keep_empty or split == "val", settings.limit or None
    if any(has_captions(Path(file)) for file in annotations):
        return CaptionedDataset(images, annotations, limit=limit, keep_empty=keep_empty)
    return CocoDataset(images, annotations, limit=limit, keep_empty=keep_empty)
