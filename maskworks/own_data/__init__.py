"""Own photographs: what was found under a path -> COCO files that the loader reads, and settings that fit them.

`found` tells the formats apart, a file for each reads it, `splits` parts training from validation and writes COCO
files, `checks` says what would waste a training, `doctor` looks at every picture and mask, `fitting` has the rules,
`configured` is what train.py calls.
"""

from maskworks.own_data.configured import configured, located

__all__ = ["configured", "located"]
