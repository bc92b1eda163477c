"""What a model answers for one image: Instances or Panoptic; each to JSON and to a drawing."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.data.images import read_image
from common.drawing import (
    Colour,
    Picture,
    Tag,
    label_colours,
    paint_box,
    paint_keypoints,
    paint_mask,
    paint_tags,
)
from common.errors import UserError, needing
from common.ops.masks import Rle, decode, encode
from common.ops.masks import boxes as corners
from common.ops.outlines import outlines

PictureSource = Path | NDArray[np.uint8] | None
Point = tuple[int, int]  # x, y


@dataclass
class Instances:
    """Objects found in one image, in the original image's pixel coordinates."""

    scores: Tensor  # [N] float
    labels: Tensor  # [N] int64, index into class_names
    boxes: Tensor  # [N, 4] x1, y1, x2, y2
    masks: Tensor | None  # [N, H, W] bool
    size: tuple[int, int]  # height, width of the original image
    class_names: tuple[str, ...]
    keypoints: Tensor | None = None  # [N, K, 3] x, y, visibility or score
    image: PictureSource = None  # where draw() takes the picture from
    mask_scores: Tensor | None = None  # [N] where a model scores masks on their own; `scores` are the boxes' then
    codes: list[Rle] | None = None  # [N] the masks of a picture that was predicted in tiles; `masks` is None then
    category_ids: tuple[int, ...] = ()  # of the classes, in annotation files; empty: 1, 2, ...
    track_ids: Tensor | None = None  # [N] numbers that a film's objects keep; -1: none

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        found = counted(self.class_names, self.labels.tolist())
        return f"<{len(self)} objects in {self.size[1]} x {self.size[0]}: {found}>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        return None if self.image is None else as_png(self.draw())

    def __getitem__(self, index: int | slice | Tensor) -> "Instances":
        """The objects at a place, from one to another, or as `select` takes them."""
        if isinstance(index, int):
            return self.select(torch.arange(len(self))[index][None])
        return self.select(torch.arange(len(self))[index] if isinstance(index, slice) else index)

    def filter(self, threshold: float = 0.0, classes: Sequence[str] | None = None) -> "Instances":
        """Those that score at least so much, of these classes."""
        keep = self.scores >= threshold
        if classes is not None:
            if unknown := sorted(set(classes) - set(self.class_names)):
                raise UserError(f"no class is called {unknown[0]!r}; there are {', '.join(self.class_names)}")
            labels = [label for label, name in enumerate(self.class_names) if name in classes]
            keep &= torch.isin(self.labels, torch.tensor(labels, dtype=self.labels.dtype, device=self.labels.device))
        return self.select(keep)

    @property
    def names(self) -> list[str]:
        """Each object's class."""
        return [self.class_names[label] for label in self.labels.tolist()]

    def numpy(self) -> dict[str, NDArray[Any]]:
        """scores [N], labels [N], boxes [N, 4], and masks [N, H, W] and keypoints [N, K, 3] where there are some."""
        parts = {name: getattr(self, name) for name in ("scores", "labels", "boxes", "masks", "keypoints")}
        return {name: value.detach().cpu().numpy() for name, value in parts.items() if value is not None}

    def rle(self) -> list[dict[str, Any]]:
        """Each object's mask as COCO writes it: {"size": [H, W], "counts": ...}."""
        codes = self.codes if self.masks is None else encode(self.masks)
        return [dict(each) for each in codes or []]

    def polygons(self) -> list[list[NDArray[np.int32]]]:
        """For each object the outlines [n, 2] of its parts, x and y of pixels; holes are filled."""
        masks = (self.mask(index) for index in range(len(self)))
        pixels = (mask.view(np.uint8) for mask in masks if mask is not None)
        found = (cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0] for mask in pixels)
        return [[np.asarray(part[:, 0], np.int32) for part in parts] for parts in found]

    def crop(self, index: int) -> Image.Image:
        """An object cut out of its picture: RGBA, transparent beside its mask."""
        one = self[index]
        picture = load_picture(self.image, self.size)
        mask = one.mask(0)
        opaque = np.ones(self.size, bool) if mask is None else mask
        left, top, right, bottom = one.boxes[0].tolist()
        corners = max(0, int(left)), max(0, int(top)), math.ceil(right), math.ceil(bottom)
        pixels = np.dstack((picture, 255 * opaque.astype(np.uint8)))[corners[1] : corners[3], corners[0] : corners[2]]
        return Image.fromarray(pixels)

    def select(self, index: Tensor) -> "Instances":
        """The objects at index (int64 positions or a bool [N])."""
        parts = ("scores", "labels", "boxes", "masks", "keypoints", "mask_scores")
        chosen: dict[str, Any] = {name: each[index] for name in parts if (each := getattr(self, name)) is not None}
        if self.codes is not None:
            chosen["codes"] = [self.codes[at] for at in torch.arange(len(self))[index.cpu()].tolist()]
        if self.track_ids is not None:
            chosen["track_ids"] = self.track_ids[index.cpu()]
        return replace(self, **chosen)

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """One object's pixels [H, W]; None where there are only boxes."""
        if self.codes is not None:
            mask: NDArray[np.bool_] = decode([self.codes[index]])[0]
            return mask
        return None if self.masks is None else np.asarray(self.masks[index].cpu())

    def to_coco(self, image_id: int = 1, category_ids: Sequence[int] = ()) -> list[dict[str, Any]]:
        """One entry of COCO's result format for each object; category_ids[label] is the class's id there."""
        category_ids = category_ids or self.category_ids or range(1, len(self.class_names) + 1)
        if len(self) == 0:
            return []
        # Differences in float64: a width must not be rounded once more.
        boxes = self.boxes.detach().cpu().double()
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)  # [N, 4] x, y, width, height
        entries: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": int(category_ids[label]), "bbox": box, "score": score}
            for label, box, score in zip(self.labels.tolist(), boxes.tolist(), self.scores.tolist(), strict=True)
        ]
        if (codes := encode(self.masks) if self.masks is not None else self.codes) is not None:
            for entry, code in zip(entries, codes, strict=True):
                entry["segmentation"] = code
        if self.mask_scores is not None:
            for entry, score in zip(entries, self.mask_scores.tolist(), strict=True):
                entry["mask_score"] = score
        if self.track_ids is not None:
            for entry, number in zip(entries, self.track_ids.tolist(), strict=True):
                if number >= 0:
                    entry["track_id"] = number
        if self.keypoints is not None:
            for entry, points in zip(entries, self.keypoints.flatten(1).tolist(), strict=True):
                entry["keypoints"] = points
        return entries

    def to_labelme(self, file_name: str) -> dict[str, Any]:
        """labelme's file beside a picture of that name: an object's parts are a group, the score its description."""
        shapes: list[dict[str, Any]] = []
        for index, (name, score) in enumerate(zip(self.names, self.scores.tolist(), strict=True)):
            mask = self.mask(index)
            parts = [self.boxes[index].reshape(2, 2).cpu().numpy()] if mask is None else outlines(mask)
            shape: dict[str, Any] = {"label": name, "group_id": index + 1 if len(parts) > 1 else None, "flags": {}}
            shape |= {"shape_type": "rectangle" if mask is None else "polygon", "description": f"{score:.3f}"}
            shapes += [shape | {"points": part.tolist()} for part in parts]
        size = {"imageHeight": self.size[0], "imageWidth": self.size[1]}
        return {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": file_name, "imageData": None} | size

    def to_supervision(self) -> Any:
        """supervision's Detections, which it draws, tracks and counts."""
        with needing("to_supervision", "supervision"):
            from supervision import Detections
        found = self.numpy()
        masks = decode(self.rle()) if self.codes else found.get("masks")
        names = {"class_name": np.array(self.names, dtype=str)}
        return Detections(found["boxes"], masks, found["scores"], found["labels"], data=names)

    def pictures(self, image: Picture, threshold: float) -> dict[str, Image.Image]:
        """What shows it, by the folder that predict.py puts it into."""
        return {"drawings": self.draw(image, threshold)}

    def labels_and_scores(self) -> tuple[list[int], list[float]]:
        """Of the objects found."""
        return self.labels.tolist(), self.scores.float().tolist()

    def draw(
        self,
        image: PictureSource = None,
        threshold: float = 0.3,
        *,
        scale: int = 1,
        with_scores: bool = True,
    ) -> Image.Image:
        """The picture with every object that scores at least the threshold: mask or box, key points, name.

        A tiny picture is hidden by the names on it; scale enlarges it first.
        """
        picture = enlarge(load_picture(self.image if image is None else image, self.size), scale)
        # The best come first: they get the best places for their tags, and the nth colour of their class.
        order = self.scores.detach().float().cpu().argsort(descending=True, stable=True).tolist()
        scores, labels, boxes = self.scores.tolist(), self.labels.tolist(), (self.boxes * scale).tolist()
        shown = [index for index in order if scores[index] >= threshold]
        colours = label_colours([labels[index] for index in shown])
        # Large objects are painted first, or they would cover the small ones.
        for index, colour in sorted(zip(shown, colours, strict=True), key=lambda pair: -area(boxes[pair[0]])):
            if (mask := self.mask(index)) is not None:
                paint_mask(picture, enlarge(mask, scale), colour)
            else:
                paint_box(picture, boxes[index], colour)
            if self.keypoints is not None:
                points = self.keypoints[index].float().cpu().numpy() * np.array([scale, scale, 1])
                paint_keypoints(picture, points, colour)
        # The name of an only class says nothing, and where objects are many it hides them.
        names = [self.class_names[labels[index]] if len(self.class_names) > 1 else "" for index in shown]
        if self.track_ids is not None:
            numbers = self.track_ids[shown].tolist()
            names = [f"{name} #{n}".strip() if n >= 0 else name for name, n in zip(names, numbers, strict=True)]
        if with_scores:
            names = [f"{name} {scores[index]:.2f}".strip() for name, index in zip(names, shown, strict=True)]
        places = [tuple(boxes[index]) for index in shown]
        paint_tags(picture, [Tag(*each) for each in zip(names, places, colours, strict=True) if each[0]])
        return Image.fromarray(picture)


@dataclass
class Segment:
    """One entry of a panoptic map: an object (thing) or a region (stuff)."""

    id: int  # its value in Panoptic.segments
    label: int  # index into class_names
    is_thing: bool
    score: float = 1.0


@dataclass
class Panoptic:
    """Every pixel of one image assigned to a segment, at the original image's size."""

    segments: Tensor  # [H, W] int32, the id of a segment; 0 = void
    infos: list[Segment]
    class_names: tuple[str, ...]
    size: tuple[int, int]  # height, width of the original image
    image: PictureSource = None  # where draw() takes the picture from

    def __len__(self) -> int:
        return len(self.infos)

    def __repr__(self) -> str:
        labels = [info.label for info in self.infos]
        return f"<{len(self)} segments in {self.size[1]} x {self.size[0]}: {counted(self.class_names, labels)}>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows."""
        return None if self.image is None else as_png(self.draw())

    def instances(self) -> Instances:
        """The segments that have pixels as objects, things and stuff alike, to filter, cut out and tell as those."""
        there = set(np.unique(self.segments.cpu().numpy()).tolist())
        infos = [info for info in self.infos if info.id in there]
        masks = self.segments.cpu() == torch.tensor([info.id for info in infos], dtype=torch.int32)[:, None, None]
        boxes = torch.from_numpy(corners(encode(masks))).double().reshape(-1, 4)  # x, y, width, height
        return Instances(
            scores=torch.tensor([info.score for info in infos]),
            labels=torch.tensor([info.label for info in infos], dtype=torch.int64),
            boxes=torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1).float(),
            masks=masks,
            size=self.size,
            class_names=self.class_names,
            image=self.image,
        )

    def to_png(self) -> Image.Image:
        """The map as COCO panoptic stores it: id = R + 256 G + 65536 B."""
        ids = self.segments.cpu().numpy()
        return Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], axis=-1).astype(np.uint8))

    def to_coco(self, image_id: int, category_ids: Sequence[int], file_name: str) -> dict[str, Any]:
        """The annotation of COCO panoptic that belongs to the PNG file_name."""
        ids = self.segments.cpu().numpy()
        entries = []
        for info in self.infos:
            mask = (ids == info.id).view(np.uint8)
            pixels = int(np.count_nonzero(mask))
            if pixels == 0:  # panopticapi refuses a segment that has no pixel in the PNG
                continue
            entry: dict[str, Any] = {"id": info.id, "category_id": int(category_ids[info.label])}
            entry |= {"area": pixels, "bbox": list(cv2.boundingRect(mask)), "iscrowd": 0}
            entries.append(entry | {"isthing": int(info.is_thing), "score": info.score})
        return {"image_id": image_id, "file_name": file_name, "segments_info": entries}

    def pictures(self, image: Picture, threshold: float) -> dict[str, Image.Image]:
        """What shows it, by the folder that predict.py puts it into."""
        return {"drawings": self.draw(image, threshold)}

    def labels_and_scores(self) -> tuple[list[int], list[float]]:
        """Of the segments found."""
        return [info.label for info in self.infos], [info.score for info in self.infos]

    def draw(self, image: PictureSource = None, threshold: float = 0.3, *, scale: int = 1) -> Image.Image:
        """The picture with every segment that scores at least the threshold: tinted, outlined and named."""
        picture = enlarge(load_picture(self.image if image is None else image, self.size), scale)
        shown, colours, points = self.paint(picture, threshold, scale)
        paint_tags(picture, [self.tag(index, points, colours) for index in shown])
        return Image.fromarray(picture)

    def paint(
        self, picture: Picture, threshold: float, scale: int = 1
    ) -> tuple[list[int], list[Colour], list[Point | None]]:
        """Tint the segments; which ones, and for every segment its colour and a point well inside."""
        ids = enlarge(self.segments.cpu().numpy(), scale)
        # Stuff of one class is one region, so the colour is its class's; things take turns.
        colours = label_colours([info.label for info in self.infos])
        points: list[Point | None] = []
        for info, colour in zip(self.infos, colours, strict=True):
            mask = ids == info.id
            points.append(inner_point(mask))
            if info.score >= threshold:
                paint_mask(picture, mask, colour, opacity=0.5)
        shown = [index for index, info in enumerate(self.infos) if info.score >= threshold and points[index]]
        return shown, colours, points

    def tag(self, index: int, points: list[Point | None], colours: list[Colour], name: str = "") -> Tag:
        x, y = points[index] or (0, 0)
        name = name or self.class_names[self.infos[index].label]
        return Tag(name, (x, y, x, y), colours[index], centred=True)


class Result(Protocol):
    """What a model finds in one image, as it is drawn and told; Instances, Panoptic, or a package's own."""

    image: PictureSource

    def draw(self, image: PictureSource = None, threshold: float = 0.3, *, scale: int = 1) -> Image.Image: ...

    def pictures(self, image: Picture, threshold: float) -> dict[str, Image.Image]: ...

    def labels_and_scores(self) -> tuple[list[int], list[float]]: ...


def counted(class_names: Sequence[str], labels: Sequence[int]) -> str:
    """How many of what, the most first: "2 dog, 1 cat"."""
    return ", ".join(f"{count} {class_names[label]}" for label, count in Counter(labels).most_common()) or "nothing"


def as_png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def inner_point(mask: NDArray[np.bool_]) -> Point | None:
    """The pixel (x, y) of mask [H, W] that is farthest from its outline; None for an empty mask."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0 or height == 0:
        return None
    inside = np.ascontiguousarray(mask[top : top + height, left : left + width]).view(np.uint8)
    # The rim of zeros makes the picture's border count as an outline.
    depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, 3)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return left + int(x) - 1, top + int(y) - 1


def enlarge(pixels: NDArray[Any], scale: int) -> NDArray[Any]:
    """Every pixel of [H, W, ...] repeated scale times in both directions."""
    return pixels if scale == 1 else pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def area(box: Sequence[float]) -> float:
    """The area of box x1, y1, x2, y2."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def load_picture(image: PictureSource, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A copy of the picture to paint on, checked to have the size (height, width) that the result is for."""
    if image is None:
        raise UserError("draw() has no picture: this result was not made from a file. Pass one: draw(image)")
    picture = image.copy() if isinstance(image, np.ndarray) else read_image(image)
    if picture.shape != (*size, 3):
        name = "the picture" if isinstance(image, np.ndarray) else str(image)
        expected = f"uint8 [{size[0]}, {size[1]}, 3]"
        raise UserError(
            f"{name} has shape {list(picture.shape)}, but the result is for {expected}: pass the original one"
        )
    return np.ascontiguousarray(picture)
