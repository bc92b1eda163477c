"""YOLACT's cases: from the made-up checkpoint, as a user would, to features, results, targets, losses and gradients.

Network cases come under the names of dbolya/yolact ("c3", "conf_logits", "final/masks") or of MMDetection 3
("backbone1", "class_logits0", "masks").
"""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.batches import Target
from common.run.checkpoint import Unset
from maskworks.published.renaming import Converted
from maskworks.shapes.scene_files import THING_IDS
from maskworks.shapes.scenes import Scene, draw_scene
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.images import learned_from, numbered
from tests.parity.networks import (
    Gradients,
    array,
    gradient_outputs,
    gradients,
    learns_what_is_compared,
    packed,
    published_checkpoint,
    rounding_of_gradients,
    total,
)
from tests.parity.rules import Rule
from tests.parity.yolact import ops as yolact_ops
from tests.parity.yolact.settings import FIXED as FIXED
from tests.parity.yolact.settings import INFORMATION as INFORMATION
from tests.parity.yolact.settings import with_settings
from yolact.boxes import level_sizes, priors_per_level
from yolact.config import Config, Model
from yolact.convert import class_count, convert
from yolact.losses import yolact_losses
from yolact.network import YOLACT, Answers
from yolact.postprocess import Detections, assemble, detect
from yolact.targets import BACKGROUND, match

INPUTS = ("tensor",)
CLOSE = 1e-5  # scores of neighbours that may swap
TAIL = 318  # priors in the outputs named _tail


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case, by name."""
    if not case.spec["state_dict"]:
        return yolact_ops.compute(case, device)
    converted = convert(published_checkpoint(case))
    model = build(case, converted).to(device)
    computed = infer(case, model) if "image" in case.inputs else {}
    return computed | (train(case, model, converted) if "gt_num_crowds" in case.inputs else {})


def rule(case: Case, name: str) -> Rule | None:
    """How an output is compared."""
    if not case.spec["state_dict"]:
        return yolact_ops.rule(case, name)
    return network_rule(case, name)


def network_rule(case: Case, name: str) -> Rule | None:
    """The spec's tolerances; MMDetection's cases have one number for all, dbolya's name them."""
    stated = case.spec.get("tolerance", {})
    tolerances = (
        stated if isinstance(stated, dict) else dict.fromkeys(("features_and_heads", "scores", "losses"), stated)
    )
    general = rules.stated(tolerances.get("features_and_heads"), 1e-4)
    gradient = rules.stated(tolerances.get("gradients"), 1e-3)
    choices = [
        (r"in/tensor", rules.relative(1e-6)),
        (
            r"((det|cc|trad|final)/)?(score|mask_score|scores)",
            rules.absolute(rules.stated(tolerances.get("scores"), 1e-4)),
        ),
        (r"((det|cc|trad|final)/)?(class|labels)|match/(conf_t|idx_pos)", rules.exact()),
        (r"(det|cc|trad)/box", rules.absolute(rules.stated(tolerances.get("boxes_fraction"), 1e-4))),
        (r"final/box", boxes_in_whole_pixels()),
        (r"final/masks", mean_mask_iou(len(case.outputs.get("final/class", ())))),
        (r"masks", rules.mask_bits(general)),
        (r"loss(_first\d+)?/\w+", rules.relative(rules.stated(tolerances.get("losses"), 1e-4))),
        (r"grad/.+", rules.relative(gradient, lambda: rounding_of_gradients(case, name, gradients_in))),
        (
            r"c\d|p\d|proto|prototypes|segm|priors|loc(_tail|_planes)?|(conf_logits|coef)(_tail)?|det/coef|maskiou_all"
            r"|match/loc_pos|(backbone|fpn|class_logits|deltas|coefficients)\d|boxes|det/(boxes|coefficients)",
            rules.relative(general),
        ),
    ]
    return rules.first_of(choices, name)


def boxes_in_whole_pixels() -> Rule:
    """Equal; a hundredth of the coordinates may differ by one: their fraction was within rounding of a whole number."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return rules.INFINITE
        difference = np.abs(computed.astype(np.int64) - expected.astype(np.int64))
        return rules.INFINITE if (difference > 1).any() else float((difference > 0).mean()) if difference.size else 0.0

    return Rule("whole pixels", 0.01, error)


def mean_mask_iou(count: int) -> Rule:
    """1 - the mean IoU of `count` packed masks with those expected, empty ones left out."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape or count == 0:
            return rules.INFINITE if computed.shape != expected.shape else 0.0
        ours, theirs = (np.unpackbits(masks)[: masks.size * 8 // count * count] for masks in (computed, expected))
        ours, theirs = ours.reshape(count, -1).astype(bool), theirs.reshape(count, -1).astype(bool)
        either = (ours | theirs).sum(axis=1)
        ious = (ours & theirs).sum(axis=1)[either > 0] / either[either > 0]
        return 1 - float(ious.mean()) if len(ious) else 0.0

    return Rule("1 - mean IoU", 1e-3, error)


def build(case: Case, converted: Converted[Config]) -> YOLACT:
    """The network the checkpoint was recognised as, with the case's settings and, strictly, its weights."""
    config = with_settings(converted.config, case.spec["settings"])
    with Unset():
        model = YOLACT(config, [f"class {index}" for index in range(class_count(converted.weights))])
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


@torch.no_grad()
def infer(case: Case, model: YOLACT) -> dict[str, Array]:
    """Features, answers and results of the case's photograph."""
    device = model.priors.device
    images = model.preprocess(case.inputs["image"]).tensor[None].to(device)
    features = model.backbone(images)
    pyramid = model.fpn(features)
    answers: Answers = model(images)
    computed = {"in/tensor": array(images), "segm": array(model.semantic(pyramid[0])), "priors": array(model.priors)}
    first = 1 if model.config.model.backbone == "darknet53" else 2
    for level, feature in enumerate(features):
        computed[f"c{level + first}"] = computed[f"backbone{level}"] = array(feature)
    for level, feature in enumerate(pyramid):
        computed[f"p{level + 3}"] = computed[f"fpn{level}"] = array(feature)
    for name, values in {
        "loc": answers.deltas,
        "conf_logits": answers.class_logits,
        "coef": answers.coefficients,
    }.items():
        computed[name], computed[f"{name}_tail"] = array(values), array(values[:, -tail_of(case, name) :])
    computed["loc_planes"] = array(answers.deltas[0].T)
    computed |= {"proto": array(answers.prototypes), "prototypes": array(answers.prototypes.permute(0, 3, 1, 2))}
    computed |= answers_of_levels(answers, model.config.model)
    if "test_cfg" in case.spec["settings"]:
        return computed | detections_in_pixels(model, answers) | results_as_mmdetection(case, model)
    return computed | detections(case, model, answers) | results(case, model)


def tail_of(case: Case, name: str) -> int:
    """How many of the last priors the output named _tail holds."""
    stated = case.spec["outputs"].get(f"{name}_tail")
    return int(stated["shape"][1]) if stated else TAIL


def answers_of_levels(answers: Answers, model: Model) -> dict[str, Array]:
    """The head's raw outputs of each level as MMDetection lays them out: [N, (prior, k), h, w], background last."""
    computed = {}
    last = torch.cat((answers.class_logits[..., 1:], answers.class_logits[..., :1]), dim=2)
    parts = {"class_logits": last, "deltas": answers.deltas, "coefficients": answers.coefficients}
    for name, values in parts.items():
        levels = values.split(priors_per_level(model), dim=1)
        for level, (cells, side) in enumerate(zip(levels, level_sizes(model.input_size), strict=True)):
            computed[f"{name}{level}"] = array(cells.reshape(len(cells), side, side, -1).permute(0, 3, 1, 2))
    return computed


def detections(case: Case, model: YOLACT, answers: Answers) -> dict[str, Array]:
    """What each kind of NMS leaves."""
    computed: dict[str, Array] = {}
    for folder, kind in (("det", "fast"), ("cc", "cross_class"), ("trad", "traditional")):
        config = replace(model.config, test=replace(model.config.test, nms=kind))  # type: ignore[arg-type]
        found = detect(answers.class_logits[0], answers.deltas[0], answers.coefficients[0], model.priors, config)
        order = in_expected_order(case, folder, found.scores, found.boxes)
        found = Detections(*(values[order] for values in found))
        computed |= {
            f"{folder}/box": array(found.boxes),
            f"{folder}/class": array(found.labels),
            f"{folder}/score": array(found.scores),
            f"{folder}/coef": array(found.coefficients),
        }
        if kind == "fast" and model.mask_iou is not None:
            soft = assemble(answers.prototypes[0], found)
            computed["maskiou_all"] = array(model.mask_iou(soft[:, None]))
    return computed


def in_expected_order(case: Case, folder: str, scores: Tensor, boxes: Tensor) -> Tensor:
    """Our detections in our order, but neighbours whose scores are as good as equal in the case's."""
    order = torch.arange(len(scores))
    expected = case.outputs.get(f"{folder}/box")
    if expected is None or len(expected) != len(boxes):
        return order
    theirs, ours = torch.from_numpy(expected.astype(np.float32)), boxes.detach().cpu().float()
    breaks = (scores[:-1] - scores[1:]).cpu() >= CLOSE
    starts = [0, *(breaks.nonzero().squeeze(1) + 1).tolist(), len(scores)]
    for start, end in pairwise(starts):
        if end - start > 1:
            distance = torch.cdist(theirs[start:end], ours[start:end])
            nearest = distance.argmin(dim=1)
            if len(nearest.unique()) == end - start:
                order[start:end] = start + nearest
    return order


def results(case: Case, model: YOLACT) -> dict[str, Array]:
    """What a user gets."""
    found = model.predict([case.inputs["image"]])[0]
    found = found.select(in_expected_order(case, "final", found.scores, found.boxes))
    assert found.masks is not None
    computed = {
        "final/score": array(found.scores),
        "final/class": array(found.labels),
        "final/box": array(found.boxes).astype(np.int64),
        "final/masks": np.packbits(array(found.masks).reshape(-1)),
    }
    if found.mask_scores is not None:
        computed["final/mask_score"] = array(found.mask_scores)
    return computed


def detections_in_pixels(model: YOLACT, answers: Answers) -> dict[str, Array]:
    found = detect(answers.class_logits[0], answers.deltas[0], answers.coefficients[0], model.priors, model.config)
    boxes = found.boxes * model.config.model.input_size
    return {"det/boxes": array(boxes), "det/coefficients": array(found.coefficients)}


def results_as_mmdetection(case: Case, model: YOLACT) -> dict[str, Array]:
    found = model.predict([case.inputs["image"]])[0]
    assert found.masks is not None
    return {
        "scores": array(found.scores),
        "labels": array(found.labels),
        "boxes": array(found.boxes),
        "masks": packed(array(found.masks)),
    }


def training_batch(case: Case, model: YOLACT) -> tuple[Tensor, list[Target]]:
    """The photographs as at inference, and their ground truth in pixels of the network's input."""
    device, size = model.priors.device, model.config.model.input_size
    truths = list(zip(numbered(case, "gt_boxes").values(), numbered(case, "gt_masks").values(), strict=True))
    images = torch.stack([model.preprocess(image).tensor for image in learned_from(case, len(truths))])
    targets = []
    for (boxes_name, masks_name), crowds in zip(truths, case.inputs["gt_num_crowds"].tolist(), strict=True):
        rows = torch.from_numpy(case.inputs[boxes_name])
        masks = torch.from_numpy(case.unpacked(masks_name))
        own = len(rows) - crowds
        boxes = rows[:, :4] * size
        target = Target(boxes[:own], rows[:own, 4].long(), masks[:own], crowd_boxes=boxes[own:])
        targets.append(target.each(lambda tensor: tensor.to(device)))
    return images.to(device), targets


def train(case: Case, model: YOLACT, converted: Converted[Config]) -> dict[str, Array]:
    """Targets, loss terms, and the gradients of their sum under the published parameters' names."""
    images, targets = training_batch(case, model)
    computed = matches(model, targets)
    model.freeze_batch_norms()
    learns_what_is_compared(case, model, converted.names)
    answers = model.train()(images)
    computed_losses = [("loss", model.config.losses, torch.randperm)]
    for folder in {name.partition("/")[0] for name in case.outputs if name.startswith("loss_first")}:
        few = replace(model.config.losses, max_masks=int(folder.removeprefix("loss_first")))
        computed_losses.append((folder, few, torch.arange))
    for folder, settings, order in computed_losses:
        losses = yolact_losses(answers, targets, model.priors, model.mask_iou, settings, order)
        named = {letter: losses[name] for letter, name in LETTERS.items() if name in losses}
        named["total"] = total(losses)
        computed |= {f"{folder}/{letter}": array(value) for letter, value in named.items()}
        if folder == "loss":
            named["total"].backward(retain_graph=True)  # type: ignore[no-untyped-call]
    return computed | gradient_outputs(gradients(model, converted.names))


LETTERS = {"B": "box", "C": "class", "M": "mask", "S": "semantic", "I": "mask_iou"}


def matches(model: YOLACT, targets: list[Target]) -> dict[str, Array]:
    size = model.config.model.input_size
    found = [match(t.boxes / size, t.labels, t.crowd_boxes / size, model.priors, model.config.losses) for t in targets]
    positives = [(each.classes > BACKGROUND).nonzero().squeeze(1) for each in found]
    return {
        "match/conf_t": array(torch.stack([each.classes for each in found]).to(torch.int16)),
        "match/idx_pos": array(torch.cat([each.objects[at] for each, at in zip(found, positives, strict=True)])),
        "match/loc_pos": array(torch.cat([each.deltas[at] for each, at in zip(found, positives, strict=True)])),
    }


def gradients_in(case: Case, dtype: torch.dtype) -> Gradients:
    """One training step's gradients, computed in a number format."""
    converted = convert(published_checkpoint(case))
    model = build(case, converted)
    images, targets = training_batch(case, model)
    model.freeze_batch_norms()
    answers = model.to(dtype).train()(images.to(dtype))
    score = model.mask_iou and (lambda masks: model.mask_iou(masks.to(dtype)))  # of masks in float32
    losses = yolact_losses(answers, targets, model.priors, score, model.config.losses)
    total(losses).backward()  # type: ignore[no-untyped-call]
    return gradients(model, converted.names)


def on_scene(case: Case, seed: int, images: int = 2) -> tuple[dict[str, Any], dict[str, Array]]:
    """Scenes of the built-in dataset for a network case's inputs: their entries in the spec, and the arrays."""
    inputs: dict[str, Array] = {"image": draw_scene(seed, "val", 0).image}
    entries: dict[str, Any] = {"image": {"meaning": "RGB, HWC"}}
    if "gt_num_crowds" not in case.inputs:
        return entries, inputs
    scenes = [draw_scene(seed, "val", 0), *(draw_scene(seed, "train", index) for index in range(images - 1))]
    inputs |= {f"image{number}": scene.image for number, scene in enumerate(scenes[1:], start=2)}
    crowds = []
    for index, scene in enumerate(scenes):
        rows, masks = ground_truth(scene, case.spec["settings"]["max_size"])
        inputs |= {f"gt_boxes{index}": rows, f"gt_masks{index}": np.packbits(masks.reshape(-1))}
        entries[f"gt_masks{index}"] = {"shape": list(masks.shape)}
        crowds.append(int((rows[:, 4] < 0).sum()))
    inputs["gt_num_crowds"] = np.array(crowds, np.int64)
    return entries, inputs


def ground_truth(scene: Scene, size: int) -> tuple[Array, Array]:
    """Rows of x1, y1, x2, y2 as fractions and the class, crowds last with -1; masks stretched to the network's size."""
    names = list(THING_IDS)
    things = [thing for thing in scene.things if thing.mask.any()]
    things.sort(key=lambda thing: thing.crowd)
    height, width = scene.image.shape[:2]
    rows, masks = np.zeros((len(things), 5), np.float32), np.zeros((len(things), size, size), bool)
    for index, thing in enumerate(things):
        y, x = np.nonzero(thing.mask)
        box = [x.min() / width, y.min() / height, (x.max() + 1) / width, (y.max() + 1) / height]
        rows[index] = [*box, -1 if thing.crowd else names.index(thing.name)]
        masks[index] = thing.mask[np.arange(size) * height // size][:, np.arange(size) * width // size]
    return rows, masks
