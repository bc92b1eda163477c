"""What a prediction run writes: drawings and masks at once, predictions.json and details.json at the end."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.files import naming, write_atomically
from common.results import Instances, Result
from maskworks.report import details
from maskworks.report.details import PredictionDetails, Shown

Picture = NDArray[np.uint8]
Json = dict[str, Any]
Remarks = Callable[[Result], Sequence[Json]]  # what predictions.json is to say more of each object of a result


@runtime_checkable
class Segments(Protocol):
    """A panoptic map, or what has one in it."""

    def to_png(self) -> Image.Image: ...

    def to_coco(self, image_id: int, category_ids: Sequence[int], file_name: str) -> Json: ...


@dataclass
class Output:
    """The folder with what was found."""

    folder: Path
    category_ids: Sequence[int]
    threshold: float
    remarks: Remarks

    def write(self, path: Path, name: str, image: Picture, result: Result, shown: bool) -> Json:
        """Draw a result and write its masks; returns what predictions.json and, if `shown`, details.json say of it."""
        drawings = result.pictures(image, self.threshold)
        for kind, drawing in drawings.items():
            self._save(kind, f"{name}.jpg", drawing, quality=90)
        found = self._write_masks(name, result)
        for annotation, remark in zip(found, self.remarks(result), strict=False):  # most models have none
            annotation.update(remark)
        height, width = image.shape[:2]
        pictures = [f"{kind}/{name}.jpg" for kind in drawings]
        return {
            "image": {"file_name": str(path), "height": height, "width": width},
            "annotations": found,
            "shown": [str(path), pictures, *result.labels_and_scores()] if shown else None,
        }

    def _write_masks(self, name: str, result: Result) -> list[Json]:
        """A result's masks as a PNG; returns its annotations, in COCO's format but for the image's number."""
        if isinstance(result, Instances):
            if result.masks is not None or result.codes is not None:
                self._write("masks", f"{name}.png", cv2.imencode(".png", instance_map(result))[1].tobytes())
            return result.to_coco(0, self.category_ids)
        assert isinstance(result, Segments)
        self._save("panoptic", f"{name}.png", result.to_png())
        return [result.to_coco(0, self.category_ids, f"{name}.png")]

    def _save(self, kind: str, name: str, picture: Image.Image, quality: int = 75) -> None:
        buffer = BytesIO()  # Pillow's own writing to files hides what the system says of a full disk
        picture.save(buffer, "PNG" if name.endswith(".png") else "JPEG", quality=quality)
        self._write(kind, name, buffer.getvalue())

    def _write(self, kind: str, name: str, content: bytes) -> None:
        path = self.folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            path.write_bytes(content)

    def finish(
        self,
        written: Callable[[], Iterable[Json]],
        classes: list[Json],
        skipped: list[tuple[str, str]],
        count: int,
        limit: int,
    ) -> None:
        """Write predictions.json, and details.json for the report of the first `limit` of `count` photographs.

        `written` goes through what write() returned, in order; `skipped` is what was left out, and why.
        """
        write_atomically(self.folder / "predictions.json", lambda path: write_predictions(path, written, classes))
        shown = [Shown(*content["shown"]) for content in islice(written(), limit)]
        title = "Predictions" if count <= limit else f"Predictions: the first {limit} of {count} photographs"
        names = [entry["name"] for entry in classes]
        details.write(self.folder, PredictionDetails(title, self.threshold, names, shown, skipped))


def write_predictions(path: Path, written: Callable[[], Iterable[Json]], classes: list[Json]) -> None:
    """{"images": [..], "categories": [..], "annotations": [..]}, one image at a time; images count from 1."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"images": [')
        write_items(file, ({"id": number} | content["image"] for number, content in enumerate(written(), start=1)))
        file.write(f'], "categories": {json.dumps(classes)}, "annotations": [')
        annotations = (
            annotation | {"image_id": number}
            for number, content in enumerate(written(), start=1)
            for annotation in content["annotations"]
        )
        write_items(file, annotations)
        file.write("]}")


def write_items(file: TextIO, items: Iterable[Json]) -> None:
    for number, item in enumerate(items):
        file.write((", " if number else "") + json.dumps(item))


def instance_map(result: Instances) -> NDArray[np.uint16]:
    """[H, W]: 0, or the number (from 1, in the order of the scores) of the best instance at each pixel."""
    numbers = np.zeros(result.size, np.uint16)
    for index in reversed(range(len(result))):  # the best is painted last
        mask = result.mask(index)
        assert mask is not None
        left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
        window = np.s_[top : top + height, left : left + width]
        numbers[window][mask[window]] = index + 1
    return numbers


def categories(class_names: Sequence[str], category_ids: Sequence[int], thing_count: int | None) -> list[Json]:
    entries: list[Json] = [{"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)]
    if thing_count is None:
        return entries
    return [entry | {"isthing": int(label < thing_count)} for label, entry in enumerate(entries)]
