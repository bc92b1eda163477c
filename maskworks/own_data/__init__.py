"""Own photographs: what was found under a path -> COCO files that the loader reads, and settings that fit them.

`found` tells the formats apart, a file for each reads it, `splits` parts training from validation and writes COCO
files, `checks` says what would waste a training, `doctor` looks at every picture and mask, `fitting` has the rules,
`configured` is what train.py calls, `correcting` what predict.py does to write predictions as own data.
"""

from maskworks.own_data.configured import configured, located
from maskworks.own_data.correcting import PredictToCorrect, refuse_to_replace, to_correct

__all__ = ["PredictToCorrect", "configured", "located", "refuse_to_replace", "to_correct"]
