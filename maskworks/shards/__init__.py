"""Data sets too large for loose files on one disk: pictures in tars, annotations as columns that processes share.

- `writing`: a COCO-format data set as shards. `common/data/shards.py` reads a picture out of them.
- `columns`: what is in a large annotation file, kept in the cache and mapped into memory.
- `at_hand`: what lies at a URL, made readable as a folder here. `fetching`: its tars, copied as far as there is room.
"""

from maskworks.shards.at_hand import at_hand

__all__ = ["at_hand"]
