"""The entries of one scene in the annotation files of the real datasets: COCO, COCO panoptic, PSG, captions.

- Polygons run along the edges of the pixels, so they give a mask back exactly; masks with holes become RLE,
  crowds uncompressed RLE.
- Segments come in the order of relations.segments_of: things, crowds, stuff.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.ops.masks import encode
from maskworks.shapes.figures import HELD_OUT
from maskworks.shapes.relations import box_of, caption_of, relations_of, segments_of
from maskworks.shapes.scenes import Scene, Thing

# Category ids, sparse like COCO's, so that it shows where one is taken for an index, and colours in panoptic images.
# PSG's indices are positions here.
THINGS = {
    "person": (1, (220, 20, 60)),
    "circle": (3, (0, 82, 255)),
    "square": (4, (255, 160, 0)),
    "triangle": (6, (120, 0, 200)),
    "star": (9, (250, 220, 0)),
    "ring": (10, (0, 180, 160)),
    "cross": (13, (255, 90, 200)),
    "heart": (17, (90, 60, 40)),
}
STUFF = {
    "sky": (101, (70, 130, 180)),
    "mountain": (104, (102, 102, 156)),
    "grass": (105, (107, 142, 35)),
    "sand": (109, (190, 153, 113)),
    "water": (112, (64, 170, 222)),
}
THING_IDS = {name: number for name, (number, _) in THINGS.items()}
STUFF_IDS = {name: number for name, (number, _) in STUFF.items()}
CATEGORY_IDS = {**THING_IDS, **STUFF_IDS}
CATEGORY_INDICES = {name: index for index, name in enumerate(CATEGORY_IDS)}
CATEGORY_COLOURS = {name: colour for name, (_, colour) in {**THINGS, **STUFF}.items()}
JOINTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
KEYPOINT_NAMES = ("nose", *(f"{side}_{joint}" for joint in JOINTS for side in ("left", "right")))
# COCO's bones, as pairs of keypoints counted from 1
SKELETON = (
    *((16, 14), (14, 12), (17, 15), (15, 13), (12, 13), (6, 12), (7, 13), (6, 7), (6, 8), (7, 9)),
    *((8, 10), (9, 11), (2, 3), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6), (5, 7)),
)

Entry = dict[str, Any]


@dataclass
class Entries:
    """What has been collected of a split; annotation ids count from 1 through each list."""

    images: list[Entry] = field(default_factory=list)
    instances: list[Entry] = field(default_factory=list)
    people: list[Entry] = field(default_factory=list)  # the same ids as in instances
    panoptic: list[Entry] = field(default_factory=list)
    scene_graphs: list[Entry] = field(default_factory=list)
    captions: list[Entry] = field(default_factory=list)  # images with a caption
    phrases: list[Entry] = field(default_factory=list)  # boxes with the part of the caption that names them


def categories() -> list[Entry]:
    """Things, then stuff; COCO panoptic's keys, of which instance files have the last three."""
    return [
        {
            "isthing": int(name in THING_IDS),
            "color": CATEGORY_COLOURS[name],
            "supercategory": "landscape" if name in STUFF_IDS else "person" if name == "person" else "shape",
            "id": category_id,
            "name": name,
        }
        for name, category_id in CATEGORY_IDS.items()
    ]


def collect(entries: Entries, scene: Scene, image_id: int, file_name: str) -> NDArray[np.uint8]:
    """Adds a scene's entries to all lists; returns its panoptic image, [H, W, 3] RGB."""
    height, width = scene.image.shape[:2]
    image = {"license": 1, "file_name": file_name, "height": height, "width": width, "id": image_id}
    entries.images.append(image)
    segments = segments_of(scene)
    first_id = len(entries.instances) + 1
    for number, thing in enumerate(segments[: len(scene.things)]):
        instance = _instance(thing, image_id, first_id + number)
        entries.instances.append(instance)
        if thing.name == "person":
            entries.people.append(_person(thing, instance))
    panoptic, infos = _panoptic(segments)
    entries.panoptic.append({"segments_info": infos, "file_name": file_name, "image_id": image_id})
    entries.scene_graphs.append(_scene_graph(scene, image, infos))
    _caption(entries, scene, image, first_id)
    return panoptic


# --- instances and people ---


def _instance(thing: Thing, image_id: int, annotation_id: int) -> Entry:
    segmentation: Any = _uncompressed(thing.mask) if thing.crowd else polygons(thing.mask)
    return {
        "segmentation": segmentation or encode(thing.mask[None])[0],
        "area": int(thing.mask.sum()),
        "iscrowd": int(thing.crowd),
        "image_id": image_id,
        "bbox": _xywh(thing.mask),
        "category_id": CATEGORY_IDS[thing.name],
        "id": annotation_id,
    }


def _person(thing: Thing, instance: Entry) -> Entry:
    keypoints = np.zeros((17, 3), np.int64) if thing.keypoints is None else thing.keypoints  # crowds have none
    return instance | {"num_keypoints": int((keypoints[:, 2] > 0).sum()), "keypoints": keypoints.ravel().tolist()}


def _xywh(mask: NDArray[np.bool_]) -> list[int]:
    x1, y1, x2, y2 = box_of(mask)
    return [x1, y1, x2 - x1, y2 - y1]


def _uncompressed(mask: NDArray[np.bool_]) -> Entry:
    """Counts as COCO has them for crowds: the runs of 0, 1, 0, .. down the columns."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    counts = np.diff(np.concatenate(([0], changes, [pixels.size]))).tolist()
    return {"counts": [0, *counts] if pixels[0] else counts, "size": list(mask.shape)}


def polygons(mask: NDArray[np.bool_]) -> list[list[int]] | None:
    """The outlines [x, y, ..] of a mask's parts along the edges of its pixels; None if there is a hole."""
    padded = np.pad(mask, 1)
    # An edge is its start and direction: right, down, left or up, with the mask on the right-hand side.
    neighbours = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    edges: dict[tuple[int, int, int], None] = {}
    for direction, neighbour in enumerate(neighbours):
        rows, columns = np.nonzero(mask & ~neighbour)
        x, y = columns + (direction in (1, 2)), rows + (direction in (2, 3))
        edges.update({(*corner, direction): None for corner in zip(x.tolist(), y.tolist(), strict=True)})
    outlines = []
    while edges:
        outline, area = _take_outline(edges)
        if area < 0:  # it went around the other way
            return None
        outlines.append(outline)
    return outlines


def _take_outline(edges: dict[tuple[int, int, int], None]) -> tuple[list[int], int]:
    """Follows and removes one closed outline: its corners, and the area inside, negative around a hole."""
    x, y, direction = next(iter(edges))
    corners, area = [x, y], 0
    while True:
        del edges[x, y, direction]
        step = (1, 0, -1, 0)[direction]
        area -= step * y
        x, y = x + step, y + (0, 1, 0, -1)[direction]
        # Right before straight on before left: parts that only touch at a corner stay apart.
        turn = next((turn for turn in (1, 0, 3) if (x, y, (direction + turn) % 4) in edges), None)
        if turn is None:
            return corners, area
        if turn:
            corners += [x, y]
        direction = (direction + turn) % 4


# --- panoptic and scene graph ---


def _panoptic(segments: list[Thing]) -> tuple[NDArray[np.uint8], list[Entry]]:
    """The image whose pixels R + 256 G + 65536 B are segment ids, and the segments_info."""
    image = np.zeros((*segments[0].mask.shape, 3), np.uint8)
    infos: list[Entry] = []
    taken = {0}  # void
    for number, segment in enumerate(segments):
        # The category's colour, off by a little so that neighbours of one class differ.
        red, green, blue = (c + (7 if c < 128 else -7) * number for c in CATEGORY_COLOURS[segment.name])
        while red + 256 * green + 65536 * blue in taken:
            red = (red + 1) % 256
        segment_id = red + 256 * green + 65536 * blue
        taken.add(segment_id)
        image[segment.mask] = (red, green, blue)
        infos.append(
            {
                "id": segment_id,
                "category_id": CATEGORY_IDS[segment.name],
                "iscrowd": int(segment.crowd),
                "bbox": _xywh(segment.mask),
                "area": int(segment.mask.sum()),
            }
        )
    return image, infos


def _scene_graph(scene: Scene, image: Entry, infos: list[Entry]) -> Entry:
    segments = segments_of(scene)
    indices = [CATEGORY_INDICES[segment.name] for segment in segments]
    boxes = [[float(side) for side in box_of(segment.mask)] for segment in segments]
    return {
        "file_name": f"images/{image['file_name']}",
        "height": image["height"],
        "width": image["width"],
        "image_id": str(image["id"]),
        "pan_seg_file_name": f"panoptic/{image['file_name']}",
        "segments_info": [
            {"id": info["id"], "category_id": index, "iscrowd": info["iscrowd"]}
            | {"isthing": int(index < len(THING_IDS)), "area": info["area"]}
            for info, index in zip(infos, indices, strict=True)
        ],
        "relations": [[r.subject, r.object, r.predicate] for r in relations_of(scene)],
        "annotations": [
            {"bbox": box, "bbox_mode": 0, "category_id": index} for box, index in zip(boxes, indices, strict=True)
        ],
        "coco_image_id": str(image["id"]),
    }


# --- captions ---


def _caption(entries: Entries, scene: Scene, image: Entry, first_id: int) -> None:
    caption, phrases = caption_of(scene)
    spans = [[[phrase.start, phrase.end]] for phrase in phrases]
    entries.captions.append(
        {
            **image,
            "original_img_id": image["id"],
            "dataset_name": "shapes",
            "caption": caption,
            "tokens_negative": [[0, len(caption)]],
            "tokens_positive_eval": spans,
        }
    )
    segments = segments_of(scene)
    for phrase, span in zip(phrases, spans, strict=True):
        for number in phrase.things:
            thing = segments[number]
            entries.phrases.append(
                {
                    "area": int(thing.mask.sum()),
                    "iscrowd": 0,
                    "image_id": image["id"],
                    "category_id": CATEGORY_IDS[thing.name],
                    "id": first_id + number,
                    "bbox": _xywh(thing.mask),
                    "tokens_positive": span,
                    "colour": thing.colour,
                    "held_out": (thing.colour, thing.name) in HELD_OUT,
                }
            )
