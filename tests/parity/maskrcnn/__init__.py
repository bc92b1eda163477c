"""Mask R-CNN's cases: from the made-up checkpoint, as a user would, to features, results, losses and gradients.

Cases come under maskrcnn-benchmark's names ("rpn/logits/0", "final/boxes") or MMDetection 3's ("rpn_logits0",
"boxes"); what is computed is the same, so every quantity is simply given under both. Where the original's results
are in another order (class by class) or count boxes otherwise (to their last pixel), they are put in its form here.
"""

import json
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from common.data.batches import Batch, Target, collate
from common.run.checkpoint import Unset
from maskrcnn import demo
from maskrcnn.config import Config
from maskrcnn.convert import class_count, convert
from maskrcnn.network import Answers, MaskRCNN
from maskrcnn.postprocess import Detections, at_original_size
from maskrcnn.targets import (
    BACKGROUND,
    IGNORED,
    anchor_targets,
    mask_targets,
    match_anchors,
    match_regions,
    region_targets,
)
from maskworks.published.origin import Origin
from maskworks.published.renaming import Converted
from maskworks.shapes.scene_files import THING_IDS
from maskworks.shapes.scenes import Scene, draw_scene
from tests.parity import networks, rules
from tests.parity.case import Array, Case
from tests.parity.images import numbered
from tests.parity.maskrcnn.settings import FIXED as FIXED
from tests.parity.maskrcnn.settings import INFORMATION as INFORMATION
from tests.parity.maskrcnn.settings import with_benchmark_settings, with_mmdetection_settings
from tests.parity.networks import array, gradients, packed, published_checkpoint, rounding_of_gradients, total
from tests.parity.rules import Rule

INPUTS = ("tensor",)
EQUAL_SCORES = 1e-6  # scores that differ by less may come in another order
LOSSES = {  # theirs: ours
    "loss_classifier": "category",
    "loss_box_reg": "boxes",
    "loss_mask": "mask",
    "loss_objectness": "objectness",
    "loss_rpn_box_reg": "proposal_boxes",
}


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case, by name."""
    converted = convert(published_checkpoint(case), origin_of(case), variant_of(case))
    model = build(case, converted).to(device)
    computed = {"palette": array(demo.colours(torch.arange(len(model.class_names) + 1)))}
    if "image" in case.inputs:
        computed |= infer(model, case)
    batch = training_batch(case, model)
    return computed | (train(model, batch.to(torch.device(device)), converted, case) if batch else {})


def origin_of(case: Case) -> Origin | None:
    """With the configuration that the case states as the original writes it: it decides when the file is converted."""
    settings = case.spec["settings"]
    if "detectron2" in settings:
        return Origin("model_final.pth", recipe=settings["detectron2"])  # its config.yaml
    told = settings.get("mmdetection")
    return Origin.read("epoch_12.pth", {"meta": {"cfg": told}}) if told else None


def rule(case: Case, name: str) -> Rule | None:
    """The spec's tolerances: maskrcnn-benchmark's cases name them, MMDetection's have one number for all."""
    stated = case.spec.get("tolerance", {})
    tolerances = stated if isinstance(stated, dict) else {}
    general = rules.stated(tolerances.get("features", stated), 1e-4)
    named = "boxes_px" in tolerances
    boxes = rules.absolute(rules.stated(tolerances["boxes_px"], 0.02)) if named else rules.relative(general)
    masks = mask_pixels(case, name, 5e-3) if named else rules.mask_bits(1e-3)
    choices = [
        (r"in/tensor|net_input", rules.relative(rules.stated(None, 1e-6))),
        (r"(final/|det/|top/)?labels|palette|train/(rpn|box)_(pos|neg|labels|label_counts)/\d+", rules.exact()),
        (r"train/mask_targets/\d+", rules.exact()),
        (r"(final/|det/|top/)?scores|rpn/objectness|proposals/scores", rules.absolute(1e-4)),
        (r"(final/|det/|top/)?boxes|rpn/proposals|proposals/boxes|train/proposals/\d+", boxes),
        (r"(final/)?masks", masks),
        (
            r"grad(_values)?/.+",
            rules.relative(
                rules.stated(tolerances.get("gradients"), 1e-3),
                lambda: rounding_of_gradients(case, name, gradients_in, part_of),
            ),
        ),
        (
            r"body/\d|backbone\d|fpn/?\d|rpn/(logits|deltas)/\d|rpn_(logits|deltas)\d"
            r"|box/(pooled|features|class_logits|deltas)|class_logits|deltas|mask/logits_of_label"
            r"|mask_logits(_of_label)?|loss/loss_\w+",
            rules.relative(general),
        ),
    ]
    return rules.first_of(choices, name)


def mask_pixels(case: Case, name: str, tolerance: float) -> Rule:
    """Packed masks: the pixels that differ, as a fraction of the mask's, in the worst of the masks."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape or computed.dtype != np.uint8:
            return rules.INFINITE
        count = len(case.outputs[name.replace("masks", "scores")])
        ours, theirs = (np.unpackbits(each).reshape(-1) for each in (computed, expected))
        pixels = len(theirs) // max(count, 1)
        ours, theirs = ours[: count * pixels].reshape(count, pixels), theirs[: count * pixels].reshape(count, pixels)
        return rules.largest((ours != theirs).sum(axis=1) / np.maximum(theirs.sum(axis=1), 1))

    return Rule("pixels of a mask", tolerance, error)


def variant_of(case: Case) -> str | None:
    """The variant to ask for where the weights don't tell: MMDetection's pyramids in the manner of Caffe2."""
    source = str(case.spec.get("source"))
    caffe = "mmdetection" not in case.spec["settings"] and "fpn" in source and "caffe" in source
    return "mmdet_r50_caffe_fpn" if caffe and "mmdet" in source.lower() else None


def build(case: Case, converted: Converted[Config]) -> MaskRCNN:
    """The network the checkpoint was recognised as, with the case's settings and, strictly, its weights."""
    settings = case.spec["settings"]
    config = converted.config
    if origin_of(case) is None:
        change = with_mmdetection_settings if "test_cfg" in settings else with_benchmark_settings
        config = change(config, settings)
    with Unset():
        model = MaskRCNN(config, [f"class {index}" for index in range(class_count(converted.weights))])
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


@torch.no_grad()
def infer(model: MaskRCNN, case: Case) -> dict[str, Array]:
    """Features, answers, proposals and results of the case's photograph [H, W, 3] RGB."""
    prepared = model.preprocess(case.inputs["image"])
    images = prepared.tensor[None].to(next(model.parameters()).device)
    stages, answers = model.backbone(images), model(images)
    computed = {"net_input": array(images), "in/tensor": array(images)}
    levels = {
        "body": stages,
        "backbone": stages,
        "fpn": answers.features,
        "rpn/logits": answers.logits,
        "rpn_logits": answers.logits,
        "rpn/deltas": answers.deltas,
        "rpn_deltas": answers.deltas,
    }
    for prefix, tensors in levels.items():
        for level, values in enumerate(tensors):
            computed[f"{prefix}/{level}"] = computed[f"{prefix}{level}"] = array(values)
    sizes = torch.tensor([prepared.resized_size], device=images.device)
    (proposed,) = model.propose(answers, sizes)
    expected = [case.outputs.get(name) for name in ("rpn/proposals", "proposals/boxes")]
    order = order_of_ties(proposed.boxes, proposed.scores, next((each for each in expected if each is not None), None))
    computed |= regions(model, answers, proposed.boxes[order])
    computed |= {
        "rpn/proposals": array(proposed.boxes[order]),
        "proposals/boxes": array(proposed.boxes[order]),
        "rpn/objectness": array(proposed.scores[order]),
        "proposals/scores": array(proposed.scores[order]),
    }
    found = model.detect(answers, sizes)
    return computed | detections(model, answers, found, case) | results(model, found, case)


def order_of_ties(boxes: Tensor, scores: Tensor, expected: Array | None) -> Tensor:
    """How to arrange boxes [n, 4] as the case has them, where all that differs is the order of equal scores.

    Scores near 1 have few values left, so that many are equal to the last bit, and which of them a sort puts first
    depends on roundings elsewhere.
    """
    same = torch.arange(len(boxes), device=boxes.device)
    if expected is None or len(expected) != len(boxes):
        return same
    distance = (torch.from_numpy(expected).to(boxes)[:, None] - boxes).abs().amax(dim=2)  # [theirs, ours]
    tied = (scores[:, None] - scores).abs() <= EQUAL_SCORES
    nearest = torch.where(tied, distance, torch.inf).argmin(dim=1)
    return nearest if torch.equal(nearest.sort().values, same) else same


def regions(model: MaskRCNN, answers: Answers, boxes: Tensor) -> dict[str, Array]:
    """What the box head sees and says of one image's proposals."""
    cut, c4 = model.box_regions(answers.features, [boxes]), model.config.model.neck == "c4"
    logits, deltas = model.box_head(cut)
    return {
        "box/pooled": array(model.cut_out(answers.features, [boxes], 14 if c4 else 7)),
        "box/features": array(cut if c4 else model.box_head.features(cut)),
        "box/class_logits": array(logits),
        "class_logits": array(logits),
        "box/deltas": array(deltas.flatten(1)),
        "deltas": array(deltas.flatten(1)),
    }


def detections(model: MaskRCNN, answers: Answers, found: Detections, case: Case) -> dict[str, Array]:
    """What is found, in network-input pixels, in the original's order and numbering of the classes."""
    order = order_of_ties(found.boxes, found.scores, case.outputs.get("det/boxes"))
    if "boxes" in case.outputs:
        order = mmdetection_order(model, found, case)
    boxes, scores, labels = (values[order] for values in found)
    computed = {"det/boxes": array(boxes), "det/scores": array(scores), "det/labels": array(labels + 1)}
    if not model.config.model.masks:
        return computed
    mask_logits = model.mask_head(model.mask_regions(answers.features, [boxes]))
    channels = labels + int(model.config.conventions.background_first)
    own = mask_logits[torch.arange(len(mask_logits)), channels]
    return computed | {
        "mask_logits": array(mask_logits),
        "mask/logits_of_label": array(own),
        "mask_logits_of_label": array(own),
    }


def mmdetection_order(model: MaskRCNN, found: Detections, case: Case) -> Tensor:
    prepared = model.preprocess(case.inputs["image"])
    return order_of_ties(at_original_size(found.boxes, prepared), found.scores, case.outputs["boxes"])


def results(model: MaskRCNN, found: Detections, case: Case) -> dict[str, Array]:
    """What a user gets, put in the original's order; its boxes may end at their last pixel."""
    best_first, conventions = model.predict([case.inputs["image"]])[0], model.config.conventions
    as_found = best_first.select(found.scores.argsort(descending=True, stable=True).argsort())
    top = demo.select(best_first, case.spec["settings"].get("confidence_threshold", demo.CONFIDENCE))
    computed: dict[str, Array] = {}
    for prefix, instances in (("final/", as_found), ("top/", top), ("", best_first)):
        boxes = instances.boxes - (instances.boxes.new_tensor([0, 0, 1, 1]) if conventions.inclusive_corners else 0)
        order = order_of_ties(boxes, instances.scores, case.outputs.get(f"{prefix}boxes"))
        boxes, chosen = boxes[order], instances.select(order)
        computed |= {
            f"{prefix}boxes": array(boxes),
            f"{prefix}scores": array(chosen.scores),
            f"{prefix}labels": array(chosen.labels + (1 if prefix or conventions.background_first else 0)),
        }
        if chosen.masks is not None:
            masks = array(chosen.masks)
            computed[f"{prefix}masks"] = np.packbits(masks.reshape(-1)) if prefix else packed(masks)
    return computed


def training_batch(case: Case, model: MaskRCNN) -> Batch | None:
    """The photographs that the losses are for, already at the network's size, as one batch."""
    photographs, truths, classes = (numbered(case, name) for name in ("train_image", "gt_boxes", "gt_labels"))
    items = []
    for index, (number, name) in enumerate(photographs.items()):
        photograph = case.inputs[name]
        boxes = torch.from_numpy(case.inputs.get(truths.get(number, ""), np.zeros((0, 4), np.float32)))
        labels = case.inputs.get(classes.get(number, ""), np.zeros(len(boxes), np.int64))  # an image may show nothing
        target = Target(
            boxes=boxes,
            labels=torch.from_numpy(labels).long() - 1,  # 0 is the background there
            masks=torch.zeros(len(boxes), *photograph.shape[:2], dtype=torch.bool),
            polygons=[
                [np.array(outline, np.float32).reshape(-1, 2) for outline in outlines]
                for outlines in (polygons_of(case, index, number) if len(boxes) else [])
            ],
        )
        items.append((torch.from_numpy(photograph).permute(2, 0, 1).contiguous(), target))
    return collate(items, model.config.conventions.size_divisor) if items else None


def polygons_of(case: Case, index: int, number: int) -> list[list[list[float]]]:
    """Each object's outlines; a case drawn from scenes (`on_scene`) has them among its inputs, as JSON in bytes."""
    if "gt_polygons" in case.spec:
        polygons: list[list[list[float]]] = case.spec["gt_polygons"][index]
        return polygons
    drawn: list[list[list[float]]] = json.loads(case.inputs[numbered(case, "gt_polygons")[number]].tobytes())
    return drawn


def choose_as_the_case(total_: int, count: int, device: torch.device) -> Tensor:
    """The first of a fixed permutation, where the original and we draw at random."""
    permutation = np.argsort((np.arange(total_) * 7919) % 10007, kind="stable")
    return torch.from_numpy(permutation[:count].copy()).to(device)


def train(model: MaskRCNN, batch: Batch, converted: Converted[Config], case: Case) -> dict[str, Array]:
    """Targets, loss terms, and the gradients of their sum under the published parameters' names."""
    computed = targets(model.train(), batch, case)
    networks.learns_what_is_compared(case, model, converted.names)
    losses = model.losses(batch, choose_as_the_case)
    total(losses).backward()  # type: ignore[no-untyped-call]
    computed |= {f"loss/{theirs}": array(losses[ours]) for theirs, ours in LOSSES.items()}
    for published, gradient in gradients(model, converted.names).items():
        computed[f"grad/{published}"] = np.asarray(np.linalg.norm(gradient.astype(np.float64)))
        computed[f"grad_values/{published}"] = gradient
    return computed


@torch.no_grad()
def targets(model: MaskRCNN, batch: Batch, case: Case) -> dict[str, Array]:
    """Which anchors and proposals the losses look at, and the masks to be drawn."""
    config, conventions = model.config, model.config.conventions
    answers = model(model.normalised(batch))
    anchors = torch.cat(answers.anchors)
    computed: dict[str, Array] = {}
    for index, (proposed, target, size) in enumerate(
        zip(model.propose(answers, batch.sizes), batch.targets, batch.sizes, strict=True)
    ):
        expected = case.outputs.get(f"train/proposals/{index}")
        theirs = None if expected is None else expected[: len(expected) - len(target.boxes)]
        ours = proposed.boxes[order_of_ties(proposed.boxes, proposed.scores, theirs)]
        matched = match_anchors(anchors, target.boxes, size, config.proposals, conventions)
        chosen = anchor_targets(anchors, target.boxes, size, config.proposals, conventions, choose_as_the_case)
        boxes = torch.cat((ours, target.boxes))
        objects = match_regions(boxes, target.boxes, config.regions, conventions)
        regions = region_targets(ours, target, config.regions, conventions, choose_as_the_case)
        mine = regions.labels >= 0
        resolution = 14 if config.model.neck == "c4" else 28
        drawn = mask_targets(regions.boxes[mine], regions.objects, target, size, resolution, conventions)
        counts = [(matched == IGNORED).sum(), (matched == BACKGROUND).sum(), (matched >= 0).sum()]
        computed |= {
            f"train/proposals/{index}": array(boxes),
            f"train/rpn_pos/{index}": array(chosen.positives),
            f"train/rpn_neg/{index}": array(chosen.negatives),
            f"train/rpn_label_counts/{index}": array(torch.stack(counts)),
            f"train/box_labels/{index}": array(torch.where(objects >= 0, target.labels[objects] + 1, 0)),
            f"train/box_pos/{index}": array(regions.indices[mine]),
            f"train/box_neg/{index}": array(regions.indices[~mine]),
            f"train/mask_targets/{index}": np.packbits(array(drawn).astype(bool).reshape(-1)),
        }
    return computed


def gradients_in(case: Case, dtype: torch.dtype) -> dict[str, Array]:
    """The gradients as computed in float32 or float64; what the losses look at stays the same."""
    converted = convert(published_checkpoint(case), origin_of(case), variant_of(case))
    model = build(case, converted).to(dtype).train()
    batch = training_batch(case, model)
    assert batch is not None
    total(model.losses(batch, choose_as_the_case)).backward()  # type: ignore[no-untyped-call]
    return gradients(model, converted.names)


def part_of(name: str) -> str:
    """The network's part, from a published name or an output named after it: backbone.body, rpn.head ..."""
    return ".".join(name.rpartition("/")[2].removeprefix("module.").split(".")[:2])


def on_scene(case: Case, seed: int, images: int = 2) -> tuple[dict[str, Any], dict[str, Array]]:
    """Scenes of the built-in dataset for a network case's inputs: their entries in the spec, and the arrays."""
    inputs: dict[str, Array] = {"image": draw_scene(seed, "val", 0).image}
    if any(name.startswith("train_image/") for name in case.inputs):
        for index in range(images):
            scene = draw_scene(seed, "train", index)
            boxes, labels, polygons = objects_of(scene)
            inputs |= {
                f"train_image/{index}": scene.image,
                f"gt_boxes/{index}": boxes,
                f"gt_labels/{index}": labels,
                f"gt_polygons/{index}": np.frombuffer(json.dumps(polygons).encode(), np.uint8),
            }
    return {"image": {"meaning": "RGB, HWC; the original image"}}, inputs


def objects_of(scene: Scene) -> tuple[Array, Array, list[list[list[float]]]]:
    """The boxes to their last pixels, labels from 1, and outlines of the objects of a scene that are no crowds."""
    names, boxes, labels, polygons = list(THING_IDS), [], [], []
    for thing in scene.things:
        outlines, _ = cv2.findContours(thing.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        drawn = [outline.reshape(-1).astype(float).tolist() for outline in outlines if len(outline) >= 3]
        if thing.crowd or not drawn:
            continue
        x, y, width, height = cv2.boundingRect(thing.mask.astype(np.uint8))
        boxes.append([x, y, x + width - 1, y + height - 1])
        labels.append(names.index(thing.name) + 1)
        polygons.append(drawn)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32), polygons
