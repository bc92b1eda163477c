"""What the model finds in photographs, as rows; pictures that look alike in shape go through the network together."""

import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.results import Instances
from maskworks import load
from maskworks.many.photographs import in_a_line

Row = dict[str, Any]


class Finder:
    """A model in a process of its own, which keeps it from one batch to the next."""

    def __init__(self, weights: bytes, settings: dict[str, Any], device: str, at_once: int):
        """`at_once`: pictures in a batch of the network's."""
        self.threshold, self.at_once = settings["threshold"], at_once
        with TemporaryDirectory() as folder:  # machines of a cluster needn't share a disk
            file = Path(folder, "weights.safetensors")
            file.write_bytes(weights)
            self.model = load(file, device=device, precision=settings["precision"])

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Rows with pixels -> rows of parts.schema(), in the same order; one with an error stays as it is."""
        found = dict[int, Row]()
        readable = [index for index, row in enumerate(rows) if row["error"] is None]
        # Scaled to one size, pictures of equal proportions are padded alike.
        readable.sort(key=lambda index: (rows[index]["height"] / rows[index]["width"], rows[index]["height"]))
        for begin in range(0, len(readable), self.at_once):
            group = readable[begin : begin + self.at_once]
            found |= zip(group, self.answers([rows[index] for index in group]), strict=True)
        nothing = {"instances": None, "milliseconds": None}
        return [without_pixels(row) | found.get(index, nothing) for index, row in enumerate(rows)]

    def answers(self, rows: Sequence[Row]) -> list[Row]:
        """What is new in each row. Where a batch fails, each picture is tried alone; one that fails then is a row."""
        start = time.perf_counter()
        try:
            results = self.model.predict([picture(row) for row in rows])
            entries = [instances(result, self.threshold) for result in results]
        except Exception as error:  # out of the GPU's memory, say
            if len(rows) > 1:
                return [self.answers([row])[0] for row in rows]
            return [{"instances": None, "milliseconds": None, "error": in_a_line(error, rows[0]["path"])}]
        each = 1000 * (time.perf_counter() - start) / len(rows)
        return [{"instances": entry, "milliseconds": each} for entry in entries]


def without_pixels(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "pixels"}


def picture(row: Row) -> NDArray[np.uint8]:
    """[H, W, 3]; a copy, since what another process decoded can't be written to."""
    return np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3).copy()


def instances(result: Instances, threshold: float) -> list[Row]:
    """Those that score at least the threshold, in the model's order."""
    result = result.filter(threshold)
    codes: list[Any] = [*result.rle()]
    codes = codes or [None] * len(result)
    quality: Sequence[Any] = [None] * len(result) if result.mask_scores is None else result.mask_scores.tolist()
    columns = (result.names, result.scores.tolist(), result.boxes.tolist(), codes, quality)
    names = ("class", "score", "box", "rle", "mask_score")
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def refuse_others(weights: Path) -> list[dict[str, Any]]:
    """Stop at a model that doesn't answer a photograph alone with instances; otherwise its classes."""
    model = load(weights, device="cpu")
    try:
        result = model.predict(np.zeros((64, 64, 3), np.uint8))
    except TypeError as error:  # a prompt, joints
        raise UserError(
            f"{weights}: the model asks for more than a photograph ({error}); use maskworks predict"
        ) from error
    if not isinstance(result, Instances) or result.keypoints is not None:
        kind = type(result).__name__
        raise UserError(
            f"{weights}: the model answers with {kind}; predict-many keeps instances; use maskworks predict"
        )
    return [{"id": number, "name": name} for number, name in zip(model.category_ids, model.class_names, strict=True)]
