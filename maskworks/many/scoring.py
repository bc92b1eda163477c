"""Scores of what predict-many has found: maskworks score TARGET --annotations FILE --out DIR"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from common.data.coco import CocoDataset
from common.errors import UserError, needing
from common.metrics.coco import LIMIT, RECALL_LIMITS
from common.metrics.coco_input import Kind
from common.run.evaluation import Evaluation, scored_for
from common.run.ranges import Count
from maskworks import command_line
from maskworks.command_line import program
from maskworks.commands import refuse_other_classes, write_scores
from maskworks.many import parts
from maskworks.many.results import as_coco, rows
from maskworks.many.scores_of_parts import coco_details_of_parts
from maskworks.shards.columns import kept

Json = dict[str, Any]
AT_ONCE = 1000  # photographs that are in memory with what was found in them


@dataclass
class Score:
    """COCO's average precision of what predict-many has found."""

    target: Annotated[str, tyro.conf.Positional]
    """The folder of Parquet files, a path or a URL."""
    annotations: Path
    """COCO-format file; a photograph is the image with the longest file_name that its path ends with."""
    out: Path
    """Folder for metrics.json."""
    max_detections: Count = LIMIT
    """How many detections of each class in an image the score looks at; 100 in published scores."""


def main() -> None:
    options = command_line.read(Score, "maskworks score")
    with needing("maskworks score", "'maskworks[ray]'"):
        import pyarrow  # noqa: F401
    if options.max_detections <= max(RECALL_LIMITS):
        raise UserError(f"--max-detections {options.max_detections}: expected {max(RECALL_LIMITS) + 1} or more")
    made_by = parts.finished(options.target)[1]
    if made_by is None:
        raise UserError(f"{options.target}: no results of predict-many there")
    dataset = CocoDataset(None, [options.annotations], read=kept)
    refuse_other_classes(dataset, [each["name"] for each in made_by["classes"]])
    pairs = Pairs(options.target, dataset)
    evaluation = Evaluation(coco_details_of_parts(pairs.parts(), options.max_detections), [])
    print(pairs.told())
    if threshold := made_by["settings"]["threshold"]:
        print(f"note: {options.target} has nothing that scores less than {threshold}; with that, AP may be higher")
    print(f"written: {write_scores(options.out, evaluation.metrics, evaluation.per_class)}")


class Pairs:
    """The rows and the annotation file's images, brought together; counts what has no counterpart."""

    def __init__(self, target: str, dataset: CocoDataset):
        self.target, self.dataset, self.file = target, dataset, dataset.annotation_files[0]
        self.numbers = {dataset.name(number): number for number in range(len(dataset))}
        if len(self.numbers) < len(dataset) or len(set(dataset.class_names)) < len(dataset.class_names):
            raise UserError(f"{self.file}: two images or two classes have the same name; rows know them by their names")
        self.seen = np.zeros(len(dataset), bool)
        self.skipped, self.unknown = 0, 0

    def parts(self) -> Iterator[tuple[Json, dict[Kind, list[Json]]]]:
        """Ground truth and detections of some images at a time, as the metrics take them."""
        coded = next((found["rle"] is not None for row in rows(self.target) for found in row["instances"] or ()), True)
        kinds: tuple[Kind, ...] = ("segm", "bbox") if coded and self.dataset.has_masks else ("bbox",)
        if len(kinds) == 1:
            print(f"boxes alone are scored: {self.file if coded else self.target} has no masks")
        pairs = self.pairs()
        while some := dict(islice(pairs, AT_ONCE)):
            detections = [each for found in some.values() for each in found]
            yield self.dataset.annotations_json(some), {kind: scored_for(kind, detections) for kind in kinds}

    def pairs(self) -> Iterator[tuple[int, list[Json]]]:
        """Each image's number, and the detections in it; images without a row come last."""
        classes = [{"id": each.id, "name": each.name} for each in self.dataset.categories]
        path = "none"
        for row in rows(self.target):
            path = row["path"]
            starts = (0, *(slash.end() for slash in re.finditer("[/#]", path)))
            number = next((self.numbers[path[at:]] for at in starts if path[at:] in self.numbers), None)
            if number is None:
                self.unknown += 1
                continue
            if self.seen[number]:
                problem = f"{path} and another row are both {self.dataset.name(number)} of {self.file}"
                raise UserError(f"{problem}; write more of the paths into it, or predict into a folder of its own")
            self.seen[number] = True
            if row["error"] is not None:
                self.skipped += 1
                yield number, []
                continue
            if [row["height"], row["width"]] != (size := self.dataset.sizes[number].tolist()):
                problem = f"{path} is {row['width']} x {row['height']}, but {size[1]} x {size[0]} in {self.file}"
                raise UserError(f"{problem}; name the annotations of these photographs")
            found = as_coco(row, classes, 0.0)["annotations"]
            yield number, [each | {"image_id": int(self.dataset.image_ids[number])} for each in found]
        if not self.seen.any():
            raise UserError(f"{self.file}: none of its images has a row in {self.target}, whose last is {path}")
        yield from ((number, []) for number in np.flatnonzero(~self.seen).tolist())

    def told(self) -> str:
        lines, missing = [f"{len(self.seen)} images scored"], int((~self.seen).sum())
        if self.skipped or missing:
            lost = f"{self.skipped} of them skipped by predict-many, {missing} without a row"
            lines.append(f"{lost}: their objects count as missed")
        if self.unknown:
            lines.append(f"{self.unknown} rows left out: {self.file} names no such image")
        return "\n".join(lines)


if __name__ == "__main__":
    program.run(main)
