"""From Parquet back: maskworks results TARGET --to coco --out FILE, or --to folder: a file for each photograph."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from common.errors import UserError, needing
from common.files import write_atomically, write_text
from common.run.ranges import Share
from maskworks import command_line
from maskworks.command_line import program
from maskworks.many import parts
from maskworks.many.sources import storage
from maskworks.prediction.files import write_predictions

Json = dict[str, Any]


@dataclass
class Results:
    """Write what predict-many has found in the format of COCO."""

    target: Annotated[str, tyro.conf.Positional]
    """The folder of Parquet files, a path or a URL."""
    out: str
    """The file to write, or the folder."""
    to: Literal["coco", "folder"] = "coco"
    """coco: one file with everything; folder: a file of the same kind for each photograph."""
    threshold: Share = 0.0
    """Instances with a lower score are left out."""


def main() -> None:
    options = command_line.read(Results, "maskworks results")
    with needing("maskworks results", "'maskworks[ray]'"):
        import pyarrow  # noqa: F401
    done, made_by = parts.finished(options.target)
    if made_by is None:
        raise UserError(f"{options.target}: no results of predict-many there")
    classes, out = made_by["classes"], Path(options.out)

    def photographs() -> Iterator[Json]:
        return (as_coco(row, classes, options.threshold) for row in rows(options.target) if row["error"] is None)

    if options.to == "coco":
        write_atomically(out, lambda path: write_predictions(path, photographs, classes))
    else:
        for content in photographs():
            name = content["image"]["file_name"]
            write_text(out / f"{parts.digest([name])}.json", json.dumps(content | {"categories": classes}))
    print(f"{len(done)} rows; written: {out}")


def rows(target: str) -> Iterator[Json]:
    """All of them, a few in memory at a time, in the order of the files' names."""
    import pyarrow.parquet as pq

    system, folder = storage(target)
    for part in sorted(name for name in system.ls(folder, detail=False) if name.endswith(".parquet")):
        with system.open(part, "rb") as opened:
            for batch in pq.ParquetFile(opened).iter_batches(batch_size=64):
                yield from batch.to_pylist()


def as_coco(row: Json, classes: Sequence[Json], threshold: float) -> Json:
    """A row as `write_predictions` takes it: the image, and an annotation for each instance."""
    ids = {entry["name"]: entry["id"] for entry in classes}
    annotations = []
    for found in row["instances"]:
        if found["score"] < threshold:
            continue
        left, top, right, bottom = found["box"]
        entry = {"image_id": 0, "category_id": ids[found["class"]], "bbox": [left, top, right - left, bottom - top]}
        given = {"score": found["score"], "segmentation": found["rle"], "mask_score": found["mask_score"]}
        annotations.append(entry | {name: value for name, value in given.items() if value is not None})
    image = {"file_name": row["path"], "height": row["height"], "width": row["width"]}
    return {"image": image, "annotations": annotations}


if __name__ == "__main__":
    program.run(main)
