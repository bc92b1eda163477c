"""SOLOv2's cases without a network: its operators (kind "ops") and COCO's scores (kind "coco_eval")."""

import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.metrics import coco_details, evaluate_coco
from common.ops import convert_targets, matrix_nms, sigmoid_focal_loss
from common.ops import masks as rle
from solov2.losses import dice_loss
from solov2.postprocess import enlarge, points_nms, resize_matrix
from solov2.targets import quarter
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.networks import array
from tests.parity.rules import Rule

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
FOCAL = re.compile(r"focal/(|exact_|kernel_half_|upcast_half_|upcast_bf16_)(loss|grad)_g([\d.]+)_a([\d.]+)")
PRECISIONS = {"kernel_half_": torch.float16, "upcast_half_": torch.float16, "upcast_bf16_": torch.bfloat16}
# The float32 kernel takes a positive's logarithm of no less than the smallest normal float.
CEILING = -float(np.log(np.finfo(np.float32).tiny))
# In half precision the kernel's probabilities become 1 above 8.3: beyond, its values are wrong.
HALF_RANGE = 8.0
HALF_ROUNDING = 4 * 2.0**-11  # of the probability, its power, its logarithm and the product


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of an operator case."""
    computed: dict[str, Array] = {}
    for name in case.outputs:
        for prefix, operator in OPERATORS.items():
            if name.startswith(prefix) and name not in computed:
                computed |= operator(case, name, device)
    return computed


def rule(case: Case, name: str) -> Rule | None:
    """How an operator's output is compared; tolerances as the spec states them."""
    stated = case.spec.get("tolerance", {})
    if name.startswith("nms_"):
        return rules.relative_nan_as_zero(rules.stated(stated.get("matrix_nms"), 1e-5))
    if name.startswith("focal/"):
        return focal_rule(case, name, rules.stated(stated.get("focal"), 1e-5))
    if name.startswith("dice/"):
        return rules.relative(rules.stated(stated.get("dice"), 1e-5))
    if name.startswith("resize_"):
        return resize_rule(case, name, rules.stated(stated.get("resize"), 1e-5))
    if name == "rle/json":
        return rules.same_json()
    return rules.exact() if name in ("points_nms/out", "quarter/out") else None


def compute_nms(case: Case, name: str, device: str) -> dict[str, Array]:
    folder, settings = name.split("/")
    kernel, sigma = settings.split("_")
    masks = torch.from_numpy(case.unpacked(f"{folder}/masks_packed")).to(device)
    labels, scores = case.tensor(f"{folder}/labels", device), case.tensor(f"{folder}/scores", device)
    return {name: array(matrix_nms(masks, labels, scores, kernel=kernel, sigma=float(sigma)))}  # type: ignore[arg-type]


def compute_points_nms(case: Case, name: str, device: str) -> dict[str, Array]:
    return {name: array(points_nms(case.tensor("points_nms/heat", device)))}


def compute_focal(case: Case, name: str, device: str) -> dict[str, Array]:
    """The focal loss; the case's targets are SOLO's (0 is background, negative is ignored)."""
    logits, targets = case.tensor("focal/logits", device), case.tensor("focal/targets", device)
    classes = logits.shape[1]
    ours = convert_targets(targets, "zero_is_background", classes)
    if name == "focal/misuse_rows":
        return {name: misuse_rows(case)}
    if name == "focal/misuse_mmcv_full_loss":  # SOLO's targets given to our op unconverted: mmcv-full's values
        rows = torch.from_numpy(misuse_rows(case)).to(device).long()
        return {name: array(sigmoid_focal_loss(logits[rows], targets[rows], reduction="none"))}
    if average := re.fullmatch(r"focal/reduced_avg_factor_([\d.]+)", name):
        losses = saturated(array(sigmoid_focal_loss(logits, ours, reduction="none")), case, 0.25)
        return {name: np.asarray(losses.sum(dtype=np.float64) / float(average[1]))}
    match = FOCAL.fullmatch(name)
    if match is None:
        return {}
    origin, quantity, gamma, alpha = match[1], match[2], float(match[3]), float(match[4])
    lowered = logits.to(PRECISIONS.get(origin, torch.float32))
    if quantity == "loss":
        losses = array(sigmoid_focal_loss(lowered, ours, gamma, alpha, reduction="none"))
        return {name: losses if origin == "exact_" else saturated(losses, case, alpha)}
    leaf = lowered.float().requires_grad_()
    sigmoid_focal_loss(leaf, ours, gamma, alpha, reduction="sum").backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    return {name: array(leaf.grad)}


def saturated(losses: Array, case: Case, alpha: float) -> Array:
    """Our exact losses as far as the original's kernel can count: a positive's ends at its ceiling."""
    targets = case.inputs["focal/targets"]
    positive = targets[:, None] == np.arange(1, losses.shape[1] + 1)
    return np.where(positive, np.minimum(losses, np.float32(alpha * CEILING)), losses)


def misuse_rows(case: Case) -> Array:
    logits, targets = case.inputs["focal/logits"], case.inputs["focal/targets"]
    return np.flatnonzero((np.abs(logits) <= 50).all(axis=1) & (targets >= 0)).astype(np.int32)


def focal_rule(case: Case, name: str, tolerance: float) -> Rule | None:
    """Every element within the tolerance; where the original's arithmetic is known to be off, only finite."""
    if name == "focal/misuse_rows":
        return rules.exact()
    if name == "focal/misuse_mmcv_full_loss":
        # Above 17 a negative's loss jumps to 65.5 in mmcv-full's kernel.
        return rules.elementwise(tolerance, case.inputs["focal/logits"][misuse_rows(case)] < 16.5)
    if name.startswith("focal/reduced_avg_factor_"):
        return rules.relative(tolerance)
    match = FOCAL.fullmatch(name)
    if match is None:
        return None
    if match[1] == "kernel_half_":
        return rules.elementwise(HALF_ROUNDING, np.abs(case.inputs["focal/logits"]) <= HALF_RANGE)
    return rules.elementwise(tolerance)


def compute_dice(case: Case, name: str, device: str) -> dict[str, Array]:
    probabilities = case.tensor("dice/input", device).requires_grad_()
    losses = dice_loss(probabilities.flatten(1), case.tensor("dice/target", device).flatten(1).float())
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert probabilities.grad is not None
    return {"dice/loss": array(losses), "dice/grad": array(probabilities.grad)}


def compute_resize(case: Case, name: str, device: str) -> dict[str, Array]:
    """Soft masks at stride 4 -> masks of the photograph's size, and what COCO's format says of them."""
    folder = name.split("/", maxsplit=1)[0]
    soft = case.tensor(f"{folder}/soft", device)
    _, _, *sizes = case.inputs[f"{folder}/sizes"].tolist()
    resized, original = (sizes[0], sizes[1]), (sizes[2], sizes[3])
    masks = enlarge(soft, resized, original, threshold=0.5)
    encoded = rle.encode(masks)
    return {
        f"{folder}/soft_out": soft_values(soft, resized, original),
        f"{folder}/mask_packed": np.packbits(array(masks).reshape(-1)),
        f"{folder}/rle_json": as_bytes(encoded),
        f"{folder}/area": np.asarray(rle.area(encoded)),
        f"{folder}/bbox": np.asarray(rle.boxes(encoded)),
    }


def soft_values(soft: Tensor, resized: tuple[int, int], original: tuple[int, int]) -> Array:
    """The enlarged soft masks before the threshold, by the matrices that `enlarge` takes its windows from."""
    rows = resize_matrix(soft.shape[1], resized[0], original[0])
    columns = resize_matrix(soft.shape[2], resized[1], original[1])
    return array(rows @ soft.cpu() @ columns.T)


def resize_rule(case: Case, name: str, tolerance: float) -> Rule | None:
    folder, quantity = name.split("/")
    if quantity == "soft_out":
        return rules.relative(tolerance)
    if quantity == "mask_packed":
        return rules.mask_bits_except(np.abs(case.outputs[f"{folder}/soft_out"] - 0.5) < tolerance)
    if quantity == "rle_json":
        return rules.same_json()
    return rules.exact() if quantity in ("area", "bbox") else None


def compute_rle(case: Case, name: str, device: str) -> dict[str, Array]:
    return {name: as_bytes(rle.encode(case.inputs["rle/masks"].astype(bool)))}


def compute_quarter(case: Case, name: str, device: str) -> dict[str, Array]:
    return {name: array(quarter(case.tensor("quarter/masks", device).bool())).astype(np.uint8)}


OPERATORS: dict[str, Callable[[Case, str, str], dict[str, Array]]] = {
    "nms_": compute_nms,
    "points_nms/": compute_points_nms,
    "focal/": compute_focal,
    "dice/": compute_dice,
    "resize_": compute_resize,
    "rle/json": compute_rle,
    "quarter/": compute_quarter,
}


def compute_scores(case: Case) -> dict[str, Array]:
    """COCO's twelve numbers and the AP of each category, for every kind of evaluation that the case has."""
    annotations = without_annotation_zero(json.loads(case.inputs["annotations_json"].tobytes()))
    detections = json.loads(case.inputs["detections_json"].tobytes())
    computed: dict[str, Array] = {}
    for kind in ("segm", "bbox"):
        summary = evaluate_coco(annotations, detections, kind)
        computed[f"stats_{kind}"] = np.array([summary[key] for key in SUMMARY])
        per_class = coco_details(annotations, detections, kind).per_class
        categories = sorted(annotations["categories"], key=lambda category: int(category["id"]))
        computed[f"per_category_ap_{kind}"] = np.array([per_class[category["name"]] for category in categories])
    return computed


def without_annotation_zero(annotations: dict[str, Any]) -> dict[str, Any]:
    """pycocotools takes an annotation whose id is 0 for a miss even where it is found, so its numbers have a miss.

    Here ids don't matter; what can't be found, as it covers no pixel, is a miss as well.
    """
    sizes = {image["id"]: (image["height"], image["width"]) for image in annotations["images"]}
    unused = 1 + max((annotation["id"] for annotation in annotations["annotations"]), default=0)
    for annotation in annotations["annotations"]:
        if annotation["id"] == 0:
            height, width = sizes[annotation["image_id"]]
            annotation["segmentation"] = rle.from_counts([height * width], height, width)
            annotation |= {"id": unused, "bbox": [0.0, 0.0, 0.0, 0.0]}
    return annotations


def score_rule(case: Case, name: str) -> Rule | None:
    if not re.fullmatch(r"(stats|per_category_ap)_(segm|bbox)", name):
        return None
    return rules.absolute(rules.stated(case.spec.get("tolerance", {}).get("stats"), 1e-9))


def as_bytes(value: object) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
