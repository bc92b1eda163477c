"""The 80 classes of COCO instances, in the order that published checkpoints predict them, and the panoptic stuff."""

from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

# torchvision names every id from 0 to 90: that of the background, and N/A where COCO has none
_NAMES = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
COCO_THINGS: dict[str, int] = {name: number for number, name in enumerate(_NAMES) if number and name != "N/A"}
COCO_CLASSES: tuple[str, ...] = tuple(COCO_THINGS)
COCO_CATEGORY_IDS: tuple[int, ...] = tuple(COCO_THINGS.values())

# of panoptic segmentation, after the things: name -> category id
COCO_STUFF: dict[str, int] = {
    "banner": 92,
    "blanket": 93,
    "bridge": 95,
    "cardboard": 100,
    "counter": 107,
    "curtain": 109,
    "door-stuff": 112,
    "floor-wood": 118,
    "flower": 119,
    "fruit": 122,
    "gravel": 125,
    "house": 128,
    "light": 130,
    "mirror-stuff": 133,
    "net": 138,
    "pillow": 141,
    "platform": 144,
    "playingfield": 145,
    "railroad": 147,
    "river": 148,
    "road": 149,
    "roof": 151,
    "sand": 154,
    "sea": 155,
    "shelf": 156,
    "snow": 159,
    "stairs": 161,
    "tent": 166,
    "towel": 168,
    "wall-brick": 171,
    "wall-stone": 175,
    "wall-tile": 176,
    "wall-wood": 177,
    "water-other": 178,
    "window-blind": 180,
    "window-other": 181,
    "tree-merged": 184,
    "fence-merged": 185,
    "ceiling-merged": 186,
    "sky-other-merged": 187,
    "cabinet-merged": 188,
    "table-merged": 189,
    "floor-other-merged": 190,
    "pavement-merged": 191,
    "mountain-merged": 192,
    "grass-merged": 193,
    "dirt-merged": 194,
    "paper-merged": 195,
    "food-other-merged": 196,
    "building-other-merged": 197,
    "rock-merged": 198,
    "wall-other-merged": 199,
    "rug-merged": 200,
}


def known_classes(count: int) -> dict[str, int] | None:
    """The names and category ids of a published model with so many classes: COCO's if there are 80."""
    return COCO_THINGS if count == len(COCO_THINGS) else None
