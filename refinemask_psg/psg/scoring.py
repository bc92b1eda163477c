"""Run a scene graph model over PSG images and score it: panoptic quality, relations, and a baseline beside them.

- "relations": relations between what the model found (SGDet); "predcls": between the true regions (PredCls).
- The baseline relates the same regions by the training set's most frequent predicates.
- As OpenPSG does, images without relations are left out; unlike there, one without predictions counts 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.metrics.panoptic import Pairs, count_pairs, quality_of_pairs
from common.results import Panoptic, Segment
from common.run.distributed import gather
from common.run.evaluation import photographs
from common.run.training import Metrics
from maskworks.report.examples import Example
from maskworks.report.mistakes import Mistakes, compare_segments, sum_up
from refinemask_psg.network import RefineMask
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.data import PsgDataset, SegmentTable
from refinemask_psg.psg.metrics import KS, Found, Graph, final_score, recall_of, recalls, without_duplicates
from refinemask_psg.psg.relation_head import (
    best_relations,
    ranking,
    relation_statistics,
    relation_targets,
    relations_from,
)
from refinemask_psg.psg.results import Relation, SceneGraph

Int = NDArray[np.int64]
STATISTICS = ("precision", "recall", "f1")
KINDS = ("relations", "relations_baseline", "predcls", "predcls_baseline")


@dataclass
class ImageScores:
    """What one image adds to the scores."""

    number: int  # in the data set
    recalls: dict[str, Found]  # by kind, of KINDS
    statistics: dict[str, float]  # of the logits between true regions
    pairs: Pairs  # of true and predicted ids
    true: list[dict[str, Any]]  # the segments_info of COCO's panoptic format
    found: list[dict[str, Any]]


@dataclass
class SceneGraphEvaluation:
    """The scores of a model on a data set; complete in every process."""

    metrics: Metrics
    wrong: Mistakes
    precision: dict[str, NDArray[np.floating[Any]]] = field(default_factory=dict)  # relations have no such curves

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """Quality of the segments' classes, recall of the predicates."""
        rows = self.metrics["panoptic"]["per_class"]
        quality = {name: row["pq"] if row["tp"] + row["fp"] + row["fn"] else math.nan for name, row in rows.items()}
        predicates = self.metrics.get("relations", {}).get("per_class", {})
        return {"PQ": quality, "R@20": {name: row["R@20"] for name, row in predicates.items()}}

    def mistakes(self, dataset: PsgDataset, threshold: float) -> Mistakes:
        return self.wrong  # every segment counts, however unsure


def evaluate_scene_graphs(
    model: torch.nn.Module, dataset: PsgDataset, batch_size: int, workers: int
) -> SceneGraphEvaluation:
    assert isinstance(model, RefineMask)
    own = []
    for numbers, pictures in photographs(dataset, batch_size, workers):
        for number, picture, graph in zip(numbers, pictures, model.predict(pictures), strict=True):
            own.append(score_image(model, dataset, number, picture, graph))
    images = sorted(gather(own), key=lambda each: each.number)
    metrics = {"panoptic": panoptic_quality(images, dataset)} | relation_scores(images, dataset)
    if "relations" in metrics:
        quality = metrics["panoptic"]["All"]["pq"] or 0.0
        metrics["relations"]["final"] = final_score(metrics["relations"] | {"PQ": quality})
    labels = {identity: label for label, identity in enumerate(dataset.category_ids)}
    compared = (compare_segments(each.pairs, each.true, each.found, labels) for each in images)
    return SceneGraphEvaluation(metrics, sum_up(dataset.class_names, compared, threshold=None))


def score_image(
    model: RefineMask, dataset: PsgDataset, number: int, picture: NDArray[np.uint8], graph: SceneGraph
) -> ImageScores:
    table, segment_map = dataset.segments(number), dataset.segment_map(number)
    masks = segment_map == table.ids[:, None, None]
    true = Graph(table.labels, masks, without_duplicates(dataset.relations_between(number, table.places)))
    ids = graph.panoptic.segments.cpu().numpy().astype(np.int64)
    recalls_of_image: dict[str, Found] = {}
    statistics: dict[str, float] = {}
    if len(true.triplets):
        settings, sure = model.config.relations, torch.ones(len(table.ids))
        logits = region_logits(model, picture, table.rows(segment_map), table)
        given = replace(true, triplets=triplets_of(relations_from(logits, sure, settings.max_relations)))
        recalls_of_image = with_baseline("predcls", true, given, sure, settings)
        targets = relation_targets([torch.from_numpy(true.triplets)], len(logits), len(sure))
        figures = relation_statistics(logits[None], targets, torch.ones(1, len(sure), dtype=torch.bool))
        statistics = {name: float(figures[name]) for name in STATISTICS}
        infos = graph.panoptic.infos
        regions = ids == np.array([info.id for info in infos], np.int64)[:, None, None]
        found = Graph(np.array([info.label for info in infos], np.int64), regions, triplets_of(graph.relations))
        scores = torch.tensor([info.score for info in infos])
        recalls_of_image |= with_baseline("relations", true, found, scores, settings)
    return ImageScores(
        number,
        recalls_of_image,
        statistics,
        count_pairs(segment_map, ids),
        [
            {"id": key, "category_id": dataset.category_ids[label], "iscrowd": int(crowd), "area": int(mask.sum())}
            for key, label, crowd, mask in zip(
                table.ids.tolist(), table.labels.tolist(), table.crowd.tolist(), masks, strict=True
            )
        ],
        graph.panoptic.to_coco(number, dataset.category_ids, "")["segments_info"],
    )


@torch.inference_mode()
def region_logits(model: RefineMask, picture: NDArray[np.uint8], rows: Int, table: SegmentTable) -> Tensor:
    """What the model says about given regions, the `rows` [H, W] of a table: [predicates, subjects, objects]"""
    assert model.scene_graph is not None
    device = next(model.parameters()).device
    prepared = model.preprocess(picture)
    feature = model.pyramids(prepared.tensor[None].to(device))[-1][0][0]
    labels = torch.from_numpy(table.labels).to(device)
    numbers = torch.arange(len(labels), device=device)
    logits: Tensor = model.scene_graph.pair_logits(
        feature, torch.from_numpy(rows).to(device), numbers, labels, prepared
    )
    return logits.float().cpu()


def triplets_of(relations: Sequence[Relation]) -> Int:
    return np.array([(each.subject, each.object, each.predicate) for each in relations], np.int64).reshape(-1, 3)


def with_baseline(kind: str, true: Graph, found: Graph, scores: Tensor, settings: Relations) -> dict[str, Found]:
    """The recall of a graph whose segments have these scores, and of the baseline's triplets between the same.

    Those are the surest pairs of segments with the most frequent predicates.
    """
    recalled = {kind: recall_of(true, found)}
    if settings.predicate_counts:
        frequency = torch.tensor(settings.predicate_counts, dtype=torch.float32).log()
        logits = frequency[:, None, None].expand(-1, len(scores), len(scores))
        frequent: Int = best_relations(ranking(logits, scores), settings.max_relations)[0].numpy()
        recalled[f"{kind}_baseline"] = recall_of(true, replace(found, triplets=frequent))
    return recalled


# --- summing up ---


def relation_scores(images: Sequence[ImageScores], dataset: PsgDataset) -> dict[str, dict[str, Any]]:
    scores: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        own = [image.recalls[kind] for image in images if kind in image.recalls]
        if not own:
            continue
        found = recalls(own, len(dataset.predicate_names))
        scores[kind] = dict(found.summary())
        scores[kind]["per_class"] = {
            name: {f"R@{k}": float(found.per_predicate[index, column]) for column, k in enumerate(KS)}
            for index, name in enumerate(dataset.predicate_names)
            if found.occurs[index]
        }
    told = [image.statistics for image in images if image.statistics]
    if told:
        scores["predcls"] |= {name: float(np.mean([each[name] for each in told])) for name in STATISTICS}
    return scores


def panoptic_quality(images: Sequence[ImageScores], dataset: PsgDataset) -> dict[str, Any]:
    """As of common.metrics.evaluate_panoptic; classes by name."""
    things = zip(dataset.category_ids, dataset.is_thing.tolist(), strict=True)
    categories = [{"id": identity, "isthing": int(thing)} for identity, thing in things]
    true, found = [image.true for image in images], [image.found for image in images]
    result = quality_of_pairs(true, found, [image.pairs for image in images], categories)
    return result | {"per_class": dict(zip(dataset.class_names, result["per_class"].values(), strict=True))}


# --- the report ---


def scene_graph_examples(model: torch.nn.Module, dataset: PsgDataset, numbers: Sequence[int]) -> list[Example]:
    """Images of the data set with true and predicted scene graph."""
    assert isinstance(model, RefineMask)
    found = []
    for number in numbers:
        sample = dataset[number]
        prediction = model.predict([sample.image])[0]
        found.append(Example(sample.path.name, sample.image, true_scene_graph(dataset, number), prediction))
    return found


def true_scene_graph(dataset: PsgDataset, number: int) -> SceneGraph:
    """An image's annotations in the form of a result."""
    table, segment_map = dataset.segments(number), dataset.segment_map(number)
    columns = (table.ids.tolist(), table.labels.tolist(), table.is_thing.tolist())
    infos = [Segment(*row) for row in zip(*columns, strict=True)]
    known = torch.from_numpy(np.where(table.rows(segment_map) < 0, 0, segment_map)).to(torch.int32)
    panoptic = Panoptic(known, infos, dataset.class_names, (known.shape[0], known.shape[1]), dataset.path(number))
    triplets = dataset.relations_between(number, table.places).tolist()
    relations = [Relation(subject, target, predicate, 1.0) for subject, target, predicate in triplets]
    return SceneGraph(panoptic, relations, dataset.predicate_names)
