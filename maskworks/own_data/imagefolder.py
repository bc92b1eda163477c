"""Hugging Face's imagefolder, read: metadata.jsonl with a line for each picture, its objects in COCO's manner.

{"file_name": "a.png", "objects": {"bbox": [[x, y, width, height]], "category": [0], "segmentation": [...]}}
"""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from common.data.images import image_size
from common.errors import UserError
from common.files import leads_inside, read_bytes
from common.ops import masks as rle
from maskworks.own_data.coco_writing import CocoWriter, Json, boxed, masked, noting, outlined, rectangle

CATEGORY = ("category", "categories", "category_id", "label", "labels", "class", "classes")
BOX = ("bbox", "bboxes", "box", "boxes")
MASK = ("segmentation", "segmentations", "segments")


def read(root: Path, rectangles: bool, faults: list[str]) -> CocoWriter:
    """The pictures of root/metadata.jsonl; adds a line for each that cannot be used."""
    file = root / "metadata.jsonl"
    rows: list[tuple[int, str, list[Json]]] = []
    for number, line in enumerate(read_bytes(file).splitlines(), start=1):
        with noting(faults, f"{file}, line {number}"):
            if line.strip():
                rows.append((number, *row_of(line)))
    names = sorted({_of(entry, CATEGORY) for _, _, entries in rows for entry in entries}, key=_order)
    writer = CocoWriter([str(name) for name in names])
    for number, name, entries in rows:
        with noting(faults, f"{file}, line {number}"):
            path = root / name
            if not leads_inside(path, root.resolve()):
                raise UserError(f"file_name {name!r} leads out of {root}; use a path inside of it")
            height, width = image_size(path)
            labels = [names.index(_of(entry, CATEGORY)) for entry in entries]
            objects = [object_of(*pair, height, width, rectangles) for pair in zip(entries, labels, strict=True)]
            writer.add_image(name, height, width, objects)
    masks = ["segmentation" in entry for entry in writer.annotations]
    if any(masks) and not all(masks):
        alone = masks.count(False)
        faults.append(f"{file}: {alone} objects have a box, others a mask; give each a mask: --data.rectangles")
    return writer


def row_of(line: bytes) -> tuple[str, list[Json]]:
    """The name of a picture and its objects, given as a list or as lists side by side."""
    try:
        row = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"not JSON ({error}); write it again") from error
    name = row.get("file_name") if isinstance(row, dict) else None
    objects = row.get("objects", []) if isinstance(row, dict) else None
    if not isinstance(name, str) or not isinstance(objects, dict | list):
        raise UserError('expected {"file_name": "...", "objects": {"bbox": [...], "category": [...]}}')
    if isinstance(objects, dict):
        columns = {key: values for key, values in objects.items() if isinstance(values, list)}
        counts = {len(values) for values in columns.values()}
        if len(counts) > 1:
            raise UserError(
                f"the lists of its objects have different lengths {sorted(counts)}; expected one entry each"
            )
        objects = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for entry in objects:
        if not isinstance(entry, dict) or not isinstance(_of(entry, CATEGORY), str | int):
            raise UserError(f"an object has no {' or '.join(CATEGORY[:2])}; expected a name or number for each")
    return name, objects


def object_of(entry: Json, label: int, height: int, width: int, rectangles: bool) -> Json:
    outline = _of(entry, MASK)
    if isinstance(outline, dict):
        if problem := rle.check(outline, height, width):
            raise UserError(f"an object's mask cannot be read: {problem}; encode it again")
        counts = outline["counts"]
        code = rle.from_counts(counts, height, width) if isinstance(counts, list) else outline
        return masked(label, rle.decode([code])[0])
    try:
        if outline:
            outlines = [outline] if not isinstance(outline[0], list) else outline
            return outlined(label, [np.array(each, np.float64).reshape(-1, 2) for each in outlines], height, width)
        x, y, w, h = np.array(_of(entry, BOX), np.float64).tolist()
    except (TypeError, ValueError) as error:
        raise UserError(
            f"an object's bbox or segmentation cannot be read ({error}); expected x, y, width, height"
        ) from error
    corners = np.array(((x, y), (x + w, y + h))).clip(0, (width, height))
    return outlined(label, [rectangle(corners)], height, width) if rectangles else boxed(label, corners)


def _of(entry: Json, names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _order(name: str | int) -> tuple[bool, int, str]:
    """Numbers by their size, before names."""
    return (isinstance(name, str), 0 if isinstance(name, str) else name, str(name))
