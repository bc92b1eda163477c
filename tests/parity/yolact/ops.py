"""YOLACT's cases without a network: box codec, matching, cropping, three kinds of NMS, and the losses' parts."""

import re
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from common.data.batches import Target
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.networks import array
from tests.parity.rules import Rule
from yolact.boxes import covered, crop, decode, encode, ious, to_pixels
from yolact.config import Inference, Losses
from yolact.losses import class_loss, hardest_background, mask_terms, semantic_loss
from yolact.postprocess import choose
from yolact.targets import BACKGROUND, PriorTargets, match

EVERYTHING = 1000  # detections, where a case is not cut to 100


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of an operator case."""
    inputs = {
        name: torch.from_numpy(value).to(device) for name, value in case.inputs.items() if not name.endswith("_packed")
    }
    computed: dict[str, Array] = {}
    for name in case.outputs:
        part = OPERATORS.get(name.partition("/")[0])
        if part is not None and name not in computed:
            computed |= {key: array(value) for key, value in part(case, inputs, name).items()}
    return computed


def rule(case: Case, name: str) -> Rule | None:
    """How an operator's output is compared: selections exactly, numbers within the spec's tolerance."""
    if not name.startswith(tuple(f"{part}/" for part in OPERATORS)):
        return None
    if case.outputs[name].dtype.kind != "f":
        return rules.exact()
    return rules.elementwise(rules.stated(case.spec["tolerance"]["float"], 1e-5))


def compute_codec(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    priors, boxes = inputs["codec/priors"], inputs["codec/boxes"]
    decoded = decode(inputs["codec/loc"], priors)
    return {
        "codec/decoded": decoded,
        "codec/encoded": encode(boxes, priors),
        "codec/iou": ious(boxes, decoded),
        "codec/iou_crowd": covered(decoded, boxes),
    }


def compute_match(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    folder = name.rpartition("/")[0]
    stated = case.spec["settings"]["match"]
    settings = Losses(positive_iou=stated["pos"], negative_iou=stated["neg"], crowd_overlap=stated["crowd_iou"])
    crowd = inputs["match/crowd"] if folder == "match/crowd" else inputs["match/crowd"][:0]
    found = match(inputs["match/gt"], inputs["match/labels"], crowd, inputs["match/priors"], settings)
    positives = (found.classes > BACKGROUND).nonzero().squeeze(1)
    return {
        f"{folder}/conf_t": found.classes.to(torch.int16),
        f"{folder}/pos_index": positives,
        f"{folder}/pos_gt": found.objects[positives],
        f"{folder}/pos_loc": found.deltas[positives],
    }


def compute_sanitize(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    size, padding, whole = (int(part) for part in name.rpartition("/")[2].split("_"))
    ends = to_pixels(inputs["sanitize/x1"], inputs["sanitize/x2"], size, padding, bool(whole))
    return {name: torch.stack(ends).to(torch.float32)}


def compute_crop(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    padding = int(name.removeprefix("crop/pad"))
    return {name: crop(inputs["crop/masks"].permute(2, 0, 1), inputs["crop/boxes"], padding).permute(1, 2, 0)}


def compute_nms(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """nms/KIND[_all][_second | _iouNN | _topN]/..."""
    folder = name.rpartition("/")[0]
    stated = case.spec["settings"]["nms"]
    test = Inference(
        nms=next(kind for kind in ("fast", "cross_class", "traditional") if folder.startswith(f"nms/{kind}")),  # type: ignore[arg-type]
        iou_threshold=stated["iou"],
        top_k=stated["top_k"],
        max_instances=EVERYTHING if "_all" in folder else stated["max_num_detections"],
        score_threshold=stated["conf_thresh"],
        threshold_after_nms=folder.endswith("_second"),
    )
    if found := re.search(r"_iou(\d+)", folder):
        test = replace(test, iou_threshold=int(found[1]) / 100)
    if found := re.search(r"_top(\d+)", folder):
        test = replace(test, top_k=int(found[1]))
    chosen, labels, scores = choose(inputs["nms/boxes"], inputs["nms/scores"], test, stated["traditional_scale_px"])
    return {
        f"{folder}/box": inputs["nms/boxes"][chosen],
        f"{folder}/class": labels,
        f"{folder}/score": scores,
        f"{folder}/coef0": inputs["nms/coef"][chosen, 0],
    }


def compute_ohem(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    logits, classes, ratio = inputs["ohem/logits"], inputs["ohem/target"], case.spec["settings"]["ohem_negpos_ratio"]
    empty = classes.clone()
    empty[1] = BACKGROUND
    small = inputs["ohem/small_target"]
    return {
        "ohem/loss_sum": class_loss(logits, classes, ratio),
        "ohem/selected": (classes > BACKGROUND) | hardest_background(logits, classes, ratio),
        "ohem/loss_sum_image1_empty": class_loss(logits, empty, ratio),
        "ohem/small_loss_sum": class_loss(logits[:1, : small.shape[1]], small, ratio),
    }


def compute_mask(case: Case, inputs: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    boxes = inputs["mask/gt_boxes"]
    target = Target(boxes, inputs["mask/labels"], inputs["mask/gt_masks"])
    if name == "mask/semantic_loss":
        return {name: semantic_loss(inputs["mask/segm"], [target])}
    positive = inputs["mask/pos"][0]
    found = PriorTargets(positive.long(), inputs["mask/idx"][0], torch.zeros(len(positive), 4, device=boxes.device))
    limit = re.search(r"_first(\d+)", name)
    settings = Losses(max_masks=int(limit[1]) if limit else len(positive))
    loss, _ = mask_terms(
        inputs["mask/coef"][0], inputs["mask/proto"][0], boxes, target, found, None, settings, torch.arange
    )
    return {name: case.spec["settings"]["mask_alpha"] * loss}


OPERATORS: dict[str, Callable[[Case, dict[str, Tensor], str], dict[str, Tensor]]] = {
    "codec": compute_codec,
    "match": compute_match,
    "sanitize": compute_sanitize,
    "crop": compute_crop,
    "nms": compute_nms,
    "ohem": compute_ohem,
    "mask": compute_mask,
}
