"""What a scene graph model answers for one image: segments and relations; to JSON and to drawings."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from common.drawing import Colour, Picture, Tag, label_colours, paint_tags
from common.results import Panoptic, PictureSource, Point, enlarge, load_picture
from refinemask_psg.psg.drawing import PAPER, paint_arrow, with_legend


@dataclass
class Relation:
    """Subject, predicate, object: "person 2" "riding" "horse 1"."""

    subject: int  # index into Panoptic.infos
    object: int  # index into Panoptic.infos
    predicate: int  # index into predicate_names
    score: float


@dataclass
class SceneGraph:
    """A panoptic map and what its segments have to do with one another; the best relation first."""

    panoptic: Panoptic
    relations: list[Relation]
    predicate_names: tuple[str, ...]

    @property
    def image(self) -> PictureSource:
        return self.panoptic.image

    @image.setter
    def image(self, image: PictureSource) -> None:
        self.panoptic.image = image

    def __len__(self) -> int:
        return len(self.relations)

    def labels_and_scores(self) -> tuple[list[int], list[float]]:
        """Of the segments."""
        return self.panoptic.labels_and_scores()

    def pictures(self, image: Picture, threshold: float) -> dict[str, Image.Image]:
        """What shows it, by the folder that predict.py puts it into: the drawing, and the graph alone."""
        drawing = self.draw(image, threshold)
        return {"drawings": drawing, "diagrams": self.diagram(threshold, size=(drawing.height, drawing.width))}

    def to_png(self) -> Image.Image:
        return self.panoptic.to_png()

    def to_coco(self, image_id: int, category_ids: Sequence[int], file_name: str) -> dict[str, Any]:
        """COCO panoptic's annotation with the relations in it."""
        relations = self.to_json()["relations"]
        return self.panoptic.to_coco(image_id, category_ids, file_name) | {"relations": relations}

    def to_json(self) -> dict[str, Any]:
        """Segments and relations with their names: {"segments": [...], "relations": [...]}."""
        classes = self.panoptic.class_names
        return {
            "segments": [vars(each) | {"name": classes[each.label]} for each in self.panoptic.infos],
            "relations": [vars(each) | {"name": self.predicate_names[each.predicate]} for each in self.relations],
        }

    def draw(
        self, image: PictureSource = None, threshold: float = 0.3, limit: int = 12, *, scale: int = 1
    ) -> Image.Image:
        """The panoptic drawing with an arrow for each of the best relations of at least the threshold, and a legend."""
        panoptic = self.panoptic
        picture = enlarge(load_picture(panoptic.image if image is None else image, panoptic.size), scale)
        _, colours, points = panoptic.paint(picture, threshold, scale)
        shown, names = self._best(threshold, limit), numbered_names(panoptic)
        self._paint_graph(picture, shown, names, points, colours)
        rows = [
            (
                (names[relation.subject], colours[relation.subject]),
                (self.predicate_names[relation.predicate], PAPER),
                (names[relation.object], colours[relation.object]),
            )
            for relation in shown
        ]
        return Image.fromarray(with_legend(picture, rows))

    def diagram(self, threshold: float = 0.3, limit: int = 12, size: tuple[int, int] = (480, 640)) -> Image.Image:
        """The graph alone, its segments in a ring, on a white picture of size (height, width)."""
        shown = self._best(threshold, limit)
        picture = np.full((*size, 3), 255, np.uint8)
        points: list[Point | None] = [None] * len(self.panoptic.infos)
        ends = list(dict.fromkeys(index for relation in shown for index in (relation.subject, relation.object)))
        for place, index in enumerate(ends):
            angle = 2 * math.pi * place / len(ends)
            x, y = 0.5 + 0.38 * math.cos(angle), 0.5 + 0.42 * math.sin(angle)
            points[index] = round(x * size[1]), round(y * size[0])
        colours = label_colours([info.label for info in self.panoptic.infos])
        self._paint_graph(picture, shown, numbered_names(self.panoptic), points, colours)
        return Image.fromarray(picture)

    def _best(self, threshold: float, limit: int) -> list[Relation]:
        best = sorted(self.relations, key=lambda relation: -relation.score)
        return [relation for relation in best if relation.score >= threshold][:limit]

    def _paint_graph(
        self,
        picture: Picture,
        shown: list[Relation],
        names: list[str],
        points: list[Point | None],
        colours: list[Colour],
    ) -> None:
        """Arrows between the points, with the names of segments and predicates."""
        ends = sorted({index for relation in shown for index in (relation.subject, relation.object)})
        tags = [self.panoptic.tag(index, points, colours, names[index]) for index in ends if points[index]]
        paint_tags(picture, tags + self._paint_arrows(picture, shown, points, colours))

    def _paint_arrows(
        self, picture: Picture, shown: list[Relation], points: list[Point | None], colours: list[Colour]
    ) -> list[Tag]:
        """Several predicates of one pair share an arrow; returns the tags with their names."""
        names: dict[tuple[int, int], list[str]] = {}
        for relation in shown:
            names.setdefault((relation.subject, relation.object), []).append(self.predicate_names[relation.predicate])
        tags = []
        for (subject, target), predicates in names.items():
            start, end = points[subject], points[target]
            if start and end and start != end:
                (x, y), *elsewhere = paint_arrow(picture, start, end, colours[subject])
                tags.append(Tag(", ".join(predicates), (x, y, x, y), PAPER, True, tuple(elsewhere)))
        return tags


def numbered_names(panoptic: Panoptic) -> list[str]:
    """Each segment's class, numbered where there are several: "person 1", "person 2", "grass"."""
    labels = [info.label for info in panoptic.infos]
    names = [panoptic.class_names[label] for label in labels]
    several = [labels.count(label) > 1 for label in labels]
    return [f"{name} {labels[: at + 1].count(labels[at])}" if several[at] else name for at, name in enumerate(names)]
