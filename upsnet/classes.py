"""The classes of the published models, in our order (things, then stuff), and how one set's names the other's."""

from maskworks.published.class_lists import CITYSCAPES as CITYSCAPES_THINGS
from maskworks.published.coco_classes import COCO_STUFF, COCO_THINGS

COCO: dict[str, int] = COCO_THINGS | COCO_STUFF

CITYSCAPES: dict[str, int] = CITYSCAPES_THINGS | {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
}

# the COCO class that a Cityscapes class of another name starts from when training begins with COCO's weights
COCO_NAMES: dict[str, str] = {
    "sidewalk": "pavement-merged",
    "building": "building-other-merged",
    "wall": "wall-other-merged",
    "fence": "fence-merged",
    "vegetation": "tree-merged",
    "sky": "sky-other-merged",
}
