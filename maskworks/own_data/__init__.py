"""Own photographs: what was found under a path -> COCO files that the loader reads, and settings that fit them.

`found` tells the formats apart, a file for each reads it, `splits` parts training from validation and writes COCO
files, `checks` says what would waste a training, `doctor` looks at every picture and mask, `fitting` has the rules,
`augmentation` what training does to pictures,
`configured` is what train.py calls, `correcting` what predict.py does to write predictions as own data. Large pictures
are cut by `tiles` to train, predicted by `tile_prediction`, and `tile_joining` says what is one object.
"""

from maskworks.own_data.augmentation import mirror_no_sides, training_set
from maskworks.own_data.configured import configured, located
from maskworks.own_data.correcting import PredictToCorrect, refuse_to_replace, to_correct
from maskworks.own_data.tile_prediction import PredictInTiles, as_asked, as_trained, scored_in_tiles
from maskworks.own_data.tiles import cut

__all__ = [
    "PredictInTiles",
    "PredictToCorrect",
    "as_asked",
    "as_trained",
    "configured",
    "cut",
    "located",
    "mirror_no_sides",
    "refuse_to_replace",
    "scored_in_tiles",
    "to_correct",
    "training_set",
]
