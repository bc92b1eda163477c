"""The built-in data set: drawn scenes on disk in the very formats of the real data sets.

`figures` draws one thing, `scenes` a picture of several, `relations` tells what they have to do with one another,
`scene_files` puts it into the files' formats, `dataset` draws a whole split into the user's cache.
"""

from maskworks.shapes.dataset import ShapesFolder, ensure, fill_in, write
from maskworks.shapes.figures import COLOURS, HELD_OUT, SHAPES, Split

__all__ = ["COLOURS", "HELD_OUT", "SHAPES", "ShapesFolder", "Split", "ensure", "fill_in", "write"]
