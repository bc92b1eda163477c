"""A model that looks at large pictures in tiles: to score it as to predict with it, it stands where the model would."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch import nn

from common.errors import UserError
from common.results import Instances
from common.run.model import Model, Source
from common.run.prediction_batches import as_picture, one_or_many
from common.run.ranges import WholeOrUnset
from common.run.settings import Data
from maskworks.commands import Evaluated, Scoring
from maskworks.own_data.correcting import PredictToCorrect
from maskworks.own_data.tile_joining import in_tiles
from maskworks.own_data.tiles import Tiling
from maskworks.prediction.command import Predict
from maskworks.report.examples import Example

M = TypeVar("M", bound=Model[Any])


@dataclass
class PredictInTiles(PredictToCorrect):
    """Find the objects in photographs and videos; large ones may be cut into tiles."""

    tile: WholeOrUnset = -1
    """Photographs above so many pixels a side are cut into tiles of that size, and what is found is joined; 0: none;
    -1: as to train."""
    overlap: WholeOrUnset = -1
    """Pixels that neighbouring tiles share; -1: as to train."""


class InTiles(nn.Module):
    """Predicts what is larger than a tile in tiles; in all else it is the model."""

    def __init__(self, model: Any, tiling: Tiling):
        super().__init__()
        self.model, self.tiling, self.config = model, tiling, model.config
        self.class_names, self.category_ids = model.class_names, model.category_ids

    @one_or_many
    def predict(self, images: Sequence[Source]) -> list[Instances]:
        return [in_tiles(self.model.predict, as_picture(image), self.tiling) for image in images]


def as_trained(model: M) -> M:
    """The model; one that learnt from tiles cuts what is larger."""
    return tiled(model, Tiling.of(model.config.data.tile, model.config.data.overlap))


def tiled(model: M, tiling: Tiling | None) -> M:
    return InTiles(model, tiling) if tiling else model  # type: ignore[return-value]


def as_asked(model: M, options: Predict) -> M:
    """The model in the tiles of the command line, or of its training."""
    tiling = chosen_tiling(options, model.config.data)
    if tiling:
        print(f"photographs above {tiling.tile} pixels a side are predicted in tiles that share {tiling.overlap}")
    return tiled(model, tiling)


def chosen_tiling(options: Predict, trained: Data) -> Tiling | None:
    tile, overlap = (options.tile, options.overlap) if isinstance(options, PredictInTiles) else (-1, -1)
    if tile < 0 <= overlap and not trained.tile:
        raise UserError(f"--overlap {overlap}: nothing is cut; say with --tile above which size")
    return Tiling.of(trained.tile if tile == -1 else tile, trained.overlap if overlap == -1 else overlap)


def scored_in_tiles(scoring: Scoring) -> Scoring:
    """A scoring that looks at pictures as the model was trained to."""

    def evaluate(model: Any, *others: Any, limit: int) -> Evaluated:
        return scoring.evaluate(as_trained(model), *others, limit=limit)

    def examples(model: Any, dataset: Any, numbers: Sequence[int]) -> list[Example]:
        return scoring.examples(as_trained(model), dataset, numbers)

    return replace(scoring, evaluate=evaluate, examples=examples, tiled=True)
