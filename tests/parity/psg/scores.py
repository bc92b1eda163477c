"""The case of scores: a submission as the challenge grades it, and full predictions on masks and boxes."""

import json
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from refinemask_psg.psg.files import read_psg
from refinemask_psg.psg.metrics import KS, Graph, Recalls, final_score, recall_of, recalls
from refinemask_psg.psg.submission_check import ids_of, open_submission
from refinemask_psg.psg.submission_score import Graded, grade, true_graph
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.rules import INFINITE, Rule

PNG = "panoptic_png/"
RANKED_WITHOUT_CONSTRAINT = 100
PANOPTIC = {"": "All", "_th": "Things", "_st": "Stuff"}


def compute(case: Case, device: str) -> dict[str, Array]:
    del device
    with tempfile.TemporaryDirectory() as folder:
        graded = grade_submission(case, Path(folder))
    return {
        "submission_scores.json": rules.as_text(submission_scores(graded, case)),
        "scores.txt": np.array(scores_text(graded)),
        "direct_scores.json": rules.as_text(direct_scores(case)),
    }


# --- the submission ---


def grade_submission(case: Case, folder: Path) -> Graded:
    inputs = case.folder / "inputs"
    with zipfile.ZipFile(folder / "submission.zip", "w") as archive:
        archive.write(inputs / "relation.json", "submission/relation.json")
        for name, picture in case.inputs.items():
            if name.startswith("submission/"):
                archive.writestr(name, cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
    for name, picture in case.inputs.items():
        if name.startswith(PNG):
            path = folder / name.removeprefix(PNG)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture[..., ::-1])
    return grade(open_submission(folder / "submission.zip"), read_psg(inputs / "psg.json"), folder)


def submission_scores(graded: Graded, case: Case) -> dict[str, Any]:
    psg = read_psg(case.folder / "inputs" / "psg.json")
    names = [*psg.thing_classes, *psg.stuff_classes]
    scores = named(graded.triplets, "sgdet") | named(graded.phrases, "phrdet")
    for suffix, group in PANOPTIC.items():
        for key in ("pq", "sq", "rq"):
            scores[key.upper() + suffix] = 100 * (graded.panoptic[group][key] or 0.0)
    scores["pq_per_category"] = {
        str(category): {"name": names[category], **{key: int(row[key]) for key in ("tp", "fp", "fn")}}
        | {"iou": row["iou_sum"]}
        for category, row in graded.panoptic["per_class"].items()
    }
    summary = graded.triplets.summary() | {"PQ": graded.panoptic["All"]["pq"]}
    return scores | {"final_score": final_score(summary), "evaluated_images": graded.image_ids}


def scores_text(graded: Graded) -> str:
    summary = graded.triplets.summary()
    return (
        f"Recall R 20: {summary['R@20']}\nMeanRecall R 20: {summary['mR@20']}\nPQ: {100 * graded.panoptic['All']['pq']}"
    )


def named(found: Recalls, mode: str) -> dict[str, Any]:
    """The recalls under OpenPSG's names."""
    scores: dict[str, Any] = {f"{mode}_{name}": value for name, value in found.summary().items()}
    for part, values in (("image", found.per_image), ("predicate", found.per_predicate)):
        rows = {str(k): values[:, column].tolist() for column, k in enumerate(KS)}
        scores[f"{mode}_per_{part}_recall"] = rows
    return scores


# --- full predictions ---


def direct_scores(case: Case) -> dict[str, Any]:
    psg = read_psg(case.folder / "inputs" / "psg.json")
    truths = [entry for entry in psg.split()[1] if entry.relations]
    count = len(psg.predicate_classes)
    by_mask: list[tuple[Graph, Graph]] = []
    by_box: list[tuple[Graph, Graph]] = []
    ranked: dict[str, list[tuple[Graph, Graph]]] = {"nogc@2": [], "nogc@56": []}
    given: list[tuple[Graph, Graph]] = []
    for index, entry in enumerate(truths):
        true = true_graph(entry, ids_of(case.inputs[PNG + entry.pan_seg_file_name]))
        true_boxes = Graph(true.labels, np.array([each.bbox for each in entry.annotations]), true.triplets)
        own = {key: case.inputs[f"direct/{index}/{key}"] for key in ("labels", "boxes", "pairs", "dists", "masks")}
        shape = case.spec["direct_mask_shapes"][index]
        masks = np.unpackbits(own["masks"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        labels, pairs, dists = own["labels"].astype(np.int64) - 1, own["pairs"].astype(np.int64), own["dists"][:, 1:]
        boxes = own["boxes"][:, :4].astype(np.float64)
        by_mask.append((true, Graph(labels, masks, constrained(pairs, dists))))
        by_box.append((true_boxes, Graph(labels, boxes, constrained(pairs, dists))))
        for name, graphs in ranked.items():
            triplets = unconstrained(pairs, dists, own["boxes"][:, 4], int(name.partition("@")[2]))
            graphs.append((true_boxes, Graph(labels, boxes, triplets)))
        pairs, dists = (case.inputs[f"direct/{index}/pc_{key}"] for key in ("pairs", "dists"))
        given.append((true, Graph(true.labels, true.regions, constrained(pairs.astype(np.int64), dists[:, 1:]))))
    boxes_scores = both(by_box, count)
    for name, graphs in ranked.items():
        boxes_scores[name] = {key: value for key, value in both(graphs, count).items() if "per_" not in key}
    classified = named(recalls([recall_of(*pair) for pair in given], count), "predcls")
    return {
        "sgdet_mask": both(by_mask, count),
        "sgdet_box": boxes_scores,
        "predcls_mask": classified | {f"predcls_{name}": value for name, value in pair_accuracy(given).items()},
    }


def constrained(pairs: Array, predicates: Array) -> Array:
    """Each pair [N, 2] with its best predicate of [N, P], in the order given -> triplets [N, 3]."""
    return np.concatenate((pairs, predicates.argmax(axis=1)[:, None]), axis=1)


def unconstrained(pairs: Array, predicates: Array, scores: Array, for_each_pair: int) -> Array:
    """The best triplets of all, of each pair at most so many (ngR@K); scores [S] are the segments'."""
    ranks = predicates * scores[pairs].prod(axis=1)[:, None]
    order = np.argsort(ranks, axis=1)[:, ::-1][:, :for_each_pair]
    kept = np.take_along_axis(ranks, order, axis=1)
    row, column = np.unravel_index(np.argsort(-kept, axis=None)[:RANKED_WITHOUT_CONSTRAINT], kept.shape)
    return np.concatenate((pairs[row], order[row, column][:, None]), axis=1)


def pair_accuracy(graphs: list[tuple[Graph, Graph]]) -> dict[str, float]:
    """A@K with true regions: of the relations, how many are found among the first K pairs that are related at all."""
    hits = []
    for true, found in graphs:
        related = {(subject, target) for subject, target, _ in true.triplets.tolist()}
        is_related = [(subject, target) in related for subject, target, _ in found.triplets.tolist()]
        hits.append(recall_of(true, replace(found, triplets=found.triplets[np.array(is_related, bool)])).hits)
    return {f"A@{k}": float(np.concatenate(hits)[:, column].mean()) for column, k in enumerate(KS)}


def both(graphs: list[tuple[Graph, Graph]], predicates: int) -> dict[str, Any]:
    triplets = named(recalls([recall_of(*pair) for pair in graphs], predicates), "sgdet")
    phrases = named(recalls([recall_of(*pair, phrases=True) for pair in graphs], predicates), "phrdet")
    return triplets | phrases


# --- comparing ---


def rule(case: Case, name: str) -> Rule | None:
    tolerance = rules.stated(case.spec.get("tolerance", {}).get("everything"), 1e-6)
    if name.endswith(".json"):
        return Rule(
            "numbers in JSON", tolerance, lambda computed, expected: difference(parsed(computed), parsed(expected))
        )
    if name == "scores.txt":
        return Rule(
            "numbers in lines", tolerance, lambda computed, expected: difference(lines(computed), lines(expected))
        )
    return None


def parsed(content: Array) -> Any:
    return json.loads(str(content))


def lines(content: Array) -> dict[str, float]:
    rows = [line.rpartition(": ") for line in str(content).splitlines()]
    return {name: float(value) for name, _, value in rows}


def difference(computed: Any, expected: Any) -> float:
    """The largest distance of two numbers at the same place; infinite where the structures differ."""
    if isinstance(expected, dict):
        if not isinstance(computed, dict) or computed.keys() != expected.keys():
            return INFINITE
        return max((difference(computed[key], expected[key]) for key in expected), default=0.0)
    if isinstance(expected, list):
        if not isinstance(computed, list) or len(computed) != len(expected):
            return INFINITE
        return max((difference(*pair) for pair in zip(computed, expected, strict=True)), default=0.0)
    if isinstance(expected, bool | str) or expected is None:
        return 0.0 if computed == expected else INFINITE
    return abs(computed - expected) if isinstance(computed, int | float) else INFINITE
