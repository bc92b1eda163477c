"""UPSNet's cases without a whole network: EfficientNet's trunk, the panoptic head, panoptic quality.

Panoptic quality (kind "pq_eval") comes as scenarios of PNGs and JSON with panopticapi's answers.
"""

import json
import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from common.errors import UserError
from common.metrics import evaluate_panoptic
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.networks import array, published_checkpoint
from tests.parity.rules import Rule
from upsnet.config import VARIANTS
from upsnet.convert import backbone_weights
from upsnet.network import UPSNet
from upsnet.panoptic_merge import Found, panoptic_logits, panoptic_map, panoptic_terms
from upsnet.postprocess import Maps, Unified, unify

GROUPS = ("All", "Things", "Stuff")
PER_CLASS = ("pq", "sq", "rq", "iou_sum", "tp", "fp", "fn")
HEAD = re.compile(r"(head_\w+)/boxes")
MERGE = re.compile(r"(\d+)/panoptic_ids")


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of a case without weights."""
    if "scenarios" in case.spec:
        return compute_scores(case)
    computed: dict[str, Array] = {}
    for name in case.inputs:
        if match := HEAD.fullmatch(name):
            computed |= compute_head(case, match[1], device)
        if match := MERGE.fullmatch(name):
            computed |= compute_merge(case, match[1], device)
    return computed


def rule(case: Case, name: str) -> Rule | None:
    """How an output of a case without weights is compared."""
    tolerance = case.spec.get("tolerance")
    choices = [
        (r".+/(summary|per_class)", rules.absolute(rules.stated(tolerance, 1e-9))),
        (r"\d+/pan_2ch|head_\w+/(kept|argmax)", rules.exact()),
        (r"head_\w+/(mask_term|seg_inst_term)", rules.relative(rules.stated(tolerance, 1e-5))),
    ]
    return rules.first_of(choices, name)


def same_segments(tolerance: float) -> Rule:
    """Panoptic pictures: the part of the pixels that differ once each of the original's ids is named as ours."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return rules.INFINITE
        ours, theirs = ids_of(computed), ids_of(expected)
        name = {0: 0}
        values, counts = np.unique(theirs, return_counts=True)
        for value in values[np.argsort(-counts)].tolist():
            found, pixels = np.unique(ours[theirs == value], return_counts=True)
            free = [each for each in found[np.argsort(-pixels)].tolist() if each not in name.values()]
            name.setdefault(value, free[0] if free else -1)
        renamed = np.vectorize(name.get)(theirs)
        return float((renamed != ours).mean())

    return Rule("segments", tolerance, error)


def ids_of(picture: Array) -> Array:
    ids: Array = picture.astype(np.int64) @ np.array([1, 256, 65536])
    return ids


def two_channels(unified: Unified) -> Array:
    """The original's final map: class, number of the instance, 0."""
    return np.stack([array(unified.classes), array(unified.numbers), 0 * array(unified.numbers)], axis=-1)


def compute_trunk(case: Case, device: str) -> dict[str, Array]:
    """EfficientNet-B0's features of a photograph that the variant using it prepares, at its own size."""
    config = VARIANTS["efficientnet_b0_coco"]
    sides = case.inputs["image"].shape[:2]
    config = replace(config, test=replace(config.test, short_side=min(sides), long_side=max(sides)))
    model = UPSNet(config, [f"class {index}" for index in range(133)]).eval()
    weights = backbone_weights(published_checkpoint(case))
    assert weights is not None
    model.backbone.load_state_dict(
        {name.removeprefix("backbone."): value for name, value in weights.items()}, strict=True
    )
    images = model.preprocess(case.inputs["image"]).tensor[None].to(device)
    with torch.no_grad():
        features = model.to(device).backbone(images)
    computed = {f"c{index + 2}": array(feature) for index, feature in enumerate(features)}
    return computed | {"in/tensor": array(images)}


def compute_head(case: Case, name: str, device: str) -> dict[str, Array]:
    """The panoptic head on given candidates; a label 0 is the original's stand-in for none."""
    inputs = {key: torch.from_numpy(value).to(device) for key, value in case.inputs.items()}
    order = inputs[f"{name}/scores"].argsort(descending=True)
    order = order[inputs[f"{name}/labels"][order] > 0]
    found = Found(*(inputs[f"{name}/{part}"][order] for part in ("boxes", "scores", "labels")))
    found = Found(found.boxes[:, 1:], found.scores, found.labels.long())
    settings, semantic = case.spec["settings"], inputs["semantic_logit"][0]
    stuff = settings["num_seg_classes"] - settings["num_classes"] + 1
    masks = inputs[f"{name}/mask_logit"][order, 0]
    terms = panoptic_terms(found, masks, semantic, stuff, settings["mask_removal_fraction"])
    return {
        f"{name}/kept": array(order[terms.kept]) if len(order) else np.zeros(1, int),
        f"{name}/mask_term": array(terms.mask[None]),
        f"{name}/seg_inst_term": array(terms.semantic[None]),
        f"{name}/argmax": array(panoptic_map(panoptic_logits(terms, semantic, stuff))),
    }


def compute_merge(case: Case, name: str, device: str) -> dict[str, Array]:
    """The final merge of given maps."""
    maps = Maps(*(torch.from_numpy(case.inputs[f"{name}/{part}"]).long() for part in ("semantic", "panoptic_ids")))
    labels = torch.from_numpy(case.inputs[f"{name}/instance_classes"]).long()
    settings = case.spec["settings"]
    unified = unify(
        Maps(maps.semantic.to(device), maps.channels.to(device)),
        (labels if len(labels) else torch.zeros(1, dtype=torch.long)).to(device),
        settings["num_seg_classes"] - settings["num_classes"] + 1,
        settings["merge_scenarios"][name]["stuff_area_limit"],
    )
    return {f"{name}/pan_2ch": two_channels(unified)}


def compute_scores(case: Case) -> dict[str, Array]:
    """Panoptic quality; a scenario that the original refuses must be refused here."""
    computed: dict[str, Array] = {}
    for name, scenario in case.spec.get("scenarios", {}).items():
        result = evaluate(case, name, scenario)
        refused = result is None or any(result[group]["n"] == 0 for group in GROUPS)
        if refused != ("error" in scenario["expected"]):
            raise AssertionError(f"{name}: the original {'fails' if not refused else 'gives numbers'}, ours does not")
        if result is not None and not refused:
            rows = [[result[group][key] for key in ("pq", "sq", "rq", "n")] for group in GROUPS]
            computed[f"{name}/summary"] = np.array(rows)
            classes = result["per_class"].items()
            computed[f"{name}/per_class"] = np.array([[key, *(row[c] for c in PER_CLASS)] for key, row in classes])
    return computed


def evaluate(case: Case, name: str, scenario: dict[str, Any]) -> dict[str, Any] | None:
    """A scenario's scores from files, as a user would have them; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for part in ("gt", "pred"):
            pictures = Path(folder) / part
            pictures.mkdir()
            for annotation in scenario[f"{part}_json"]["annotations"]:
                picture = case.inputs.get(f"{name}/{part}/{annotation['image_id']}")
                if picture is not None:
                    cv2.imwrite(str(pictures / annotation["file_name"]), picture[..., ::-1])
            files.append(pictures.with_suffix(".json"))
            files[-1].write_text(json.dumps(scenario[f"{part}_json"]))
        try:
            return evaluate_panoptic(*files)
        except UserError:
            return None
