"""GLIP's training cases: targets, assignment, losses and gradients of a batch."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from common.data.augment import augmented
from common.data.batches import Batch, Target, collate
from common.data.coco import Sample
from glip.augmentation import training_transforms
from glip.boxes import anchors_of, decode, encode
from glip.config import Augment, Config
from glip.convert import convert
from glip.dynamic_head import Answers, DeformableConv
from glip.grounding import GroundingTarget, ground
from glip.losses import glip_losses
from glip.network import DIVISOR, GLIP
from glip.prompts import Caption, class_prompt
from glip.targets import assign, centerness_of, token_targets
from glip.text_encoder import Tokens
from maskworks.published.renaming import Converted
from maskworks.shapes.relations import box_of
from maskworks.shapes.scene_files import THING_IDS
from maskworks.shapes.scenes import draw_scene
from tests.parity import glip, rules
from tests.parity.case import Array, Case
from tests.parity.images import learned_from, numbered
from tests.parity.networks import Gradients, array, gradient_outputs, gradients, published_checkpoint, total

GRADIENT_SAMPLE = 400
Convolution = Callable[[DeformableConv, Tensor, Tensor, Tensor], Tensor]
CONVOLVE: Convolution = DeformableConv._convolve


def train(case: Case, model: GLIP, converted: Converted[Config]) -> dict[str, Array]:
    """Everything of a training step, up to the gradients of the losses' sum under the published names."""
    without_randomness(model)
    device = next(model.parameters()).device
    batch, targets, tokens = training_batch(case, model)
    computed = {
        "in/tensor": array(model.normalised(batch.images, batch.sizes)),
        "in/input_ids": array(tokens.ids),
        "in/attention_mask": array(tokens.mask.long()),
        "positive_map": array(torch.cat([target.positive for target in targets]).to(torch.uint8)),
    }
    images = model.normalised(batch.images.to(device), batch.sizes.to(device))
    answers = model.train()(images, tokens.to(device))
    sizes = [(level.shape[-2], level.shape[-1]) for level in answers.deltas]
    anchors = anchors_of(sizes, model.config.model.anchor_scale, device)
    for image, target in enumerate(targets):
        computed |= assignment(image, target, anchors)
    computed |= head_outputs(answers)
    losses = glip_losses(
        answers,
        anchors,
        [target.boxes.to(device) for target in targets],
        [target.positive.to(device) for target in targets],
        tokens.mask.to(device),
        model.config.model,
    )
    total(losses).backward()  # type: ignore[no-untyped-call]
    computed |= {
        "loss/loss_reg": array(losses["box"]),
        "loss/loss_centerness": array(losses["centerness"]),
        "loss/loss_dot_product_token": array(losses["token"]),
        "loss/loss_cls": np.zeros((), np.float32),  # nought times the loss of a layer that we leave out
        "loss/total": array(total(losses)),
    }
    return computed | gradients_and_norm(gradients(model, converted.names))


def head_outputs(answers: Answers) -> dict[str, Array]:
    kinds = {"bbox_pred": answers.deltas, "centerness": answers.centerness, "token_logits": answers.token_logits}
    return {
        f"head/{kind}/{name}": array(level)
        for kind, levels in kinds.items()
        for name, level in zip(glip.LEVELS, levels, strict=True)
    }


def without_randomness(model: GLIP) -> None:
    """Nothing is dropped, as in the cases, though the network trains."""
    model.pyramid.drop_block = 0.0
    for module in model.modules():
        for name in ("p", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    model.text.bert.config.attention_probs_dropout_prob = 0.0
    for layer in model.text.bert.encoder.layer:
        layer.attention.self.dropout.p = 0.0


def training_batch(case: Case, model: GLIP) -> tuple[Batch, list[GroundingTarget], Tokens]:
    """The case's photographs and annotations as training prepares them, with all classes as their caption."""
    settings = case.spec["settings"]
    augment = Augment(
        long_side=settings["max_size_train"],
        short_sides=(settings["min_size_train"],),
        flip=0.0 if settings.get("flip", "none") == "none" else 1.0,
    )
    boxes = numbered(case, "gt_bbox_xywh")
    photographs = zip(boxes, learned_from(case, len(boxes)), strict=True)
    samples = [sample_of(case, number, photograph) for number, photograph in photographs]
    batch = collate([augmented(each, training_transforms(augment)) for each in samples], DIVISOR)
    length = model.config.text.max_tokens
    texts = case.spec.get("captions") or [None] * len(boxes)
    pairs = zip(batch.targets, texts, strict=True)
    targets = [ground(target, caption_of(model, text), model.tokeniser) for target, text in pairs]
    return batch, targets, model.tokeniser.tokens([target.caption for target in targets], length)


def caption_of(model: GLIP, text: str | None) -> Caption:
    """The list of classes, or the one that the case has for an image, which may name them in another order."""
    listed = class_prompt(model.class_names, model.tokeniser, model.config.text).captions[0]
    if text is None or text == listed.text:
        return listed
    parts = text.split(model.config.text.separator)
    named = class_prompt(parts, model.tokeniser, model.config.text).captions[0]
    return replace(named, labels=tuple(model.class_names.index(part) for part in parts))


def sample_of(case: Case, number: int, photograph: Array) -> Sample:
    names = ("gt_bbox_xywh", "gt_category", "gt_iscrowd")
    boxes, categories, crowds = (case.inputs[numbered(case, name)[number]] for name in names)
    ids = {identity: label for label, identity in enumerate(case.spec.get("coco_category_ids") or range(1, 1000))}
    boxes = boxes.astype(np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return Sample(
        image=photograph,
        boxes=boxes.astype(np.float32),
        labels=np.array([ids[int(identity)] for identity in categories], np.int64),
        masks=np.zeros((len(boxes), *photograph.shape[:2]), bool),
        crowd=crowds.astype(bool),
        keypoints=None,
        image_id=number,
        path=Path(f"image {number}"),
    )


def assignment(image: int, target: Target, anchors: list[Tensor]) -> dict[str, Array]:
    """Which anchors answer for which box of one image, and what they must say."""
    assert isinstance(target, GroundingTarget)
    device = anchors[0].device
    boxes, every = target.boxes.to(device), torch.cat(anchors)
    found = assign(boxes, anchors)
    own, wanted = every[found.anchors], boxes[found.objects]
    deltas = encode(wanted, own)
    tokens = token_targets(target.positive.to(device), found, len(every))[found.anchors]
    return {
        f"target{image}/boxes": array(boxes),
        f"target{image}/labels": array(target.labels + 1),
        f"assign{image}/positive_anchors": array(found.anchors),
        f"assign{image}/labels": array(target.labels.to(device)[found.objects] + 1),
        f"assign{image}/reg_targets": array(deltas),
        f"assign{image}/token_targets": array(tokens.to(torch.uint8)),
        f"assign{image}/centerness_targets": array(centerness_of(decode(deltas, own), own)),
    }


def gradients_and_norm(found: Gradients) -> dict[str, Array]:
    squares = [np.square(gradient.astype(np.float64)).sum() for gradient in found.values()]
    return {"grad_total_norm": np.asarray(np.sqrt(np.sum(squares)))} | gradient_outputs(found, GRADIENT_SAMPLE)


# --- what rounding leaves open


def rounding(case: Case, name: str) -> float:
    """How far float32 leaves a training case's answer or gradient open; at most LARGEST_ROUNDING."""
    folder = str(case.folder.resolve())
    if folder not in ROUNDING:
        ROUNDING[folder] = measured_rounding(case)
    # a norm differs by no more than its gradient does
    names = (name, name.replace("grad/", "grad_sample/", 1))
    return min(max(ROUNDING[folder].get(each, 0.0) for each in names), LARGEST_ROUNDING)


ROUNDING: dict[str, dict[str, float]] = {}  # by case, as measuring takes three training steps
LARGEST_ROUNDING = 2e-2


def measured_rounding(case: Case) -> dict[str, float]:
    """For each output twice its distance from float64 in float32, and what samples at a pixel's edge can change.

    The slope of bilinear sampling jumps where a deformable convolution's sample crosses a pixel's centre line. The
    few dozen samples (of a million) that lie nearer to one than float32 can tell fall to either side, and one of them
    changes the gradients of all layers before it by more than float32's precision. The original's machine rounded
    otherwise than this one, whose own offsets say how far: twice that far, as everywhere.
    """
    offsets: list[list[Tensor]] = [[], []]
    exact = training_step(case, torch.float64, noting(offsets[0]))
    single = training_step(case, torch.float32, noting(offsets[1]))
    reach = [2 * float((a - b).abs().max()) for a, b in zip(*offsets, strict=True)]
    moved = training_step(case, torch.float64, crossing(reach))
    return {
        name: 2 * rules.relative_error(single[name], values) + rules.relative_error(moved[name], values)
        for name, values in exact.items()
    }


def noting(seen: list[Tensor]) -> Convolution:
    """The deformable convolution, noting down the offsets it gets."""

    def convolve(self: DeformableConv, features: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
        seen.append(offsets.detach().double())
        return CONVOLVE(self, features, offsets, gates)

    return convolve


def crossing(reach: list[float]) -> Convolution:
    """The deformable convolution with each sample that lies so near to a pixel's line put on its other side."""
    left = iter(reach)

    def convolve(self: DeformableConv, features: Tensor, offsets: Tensor, gates: Tensor) -> Tensor:
        beyond = offsets.detach().round() - offsets.detach()
        moved = offsets + torch.where(beyond.abs() < next(left), 2 * beyond, 0)
        return CONVOLVE(self, features, moved, gates)

    return convolve


def training_step(case: Case, dtype: torch.dtype, convolution: Convolution) -> dict[str, Array]:
    """Answers and gradients of one step in a number format, by their output names."""
    converted = convert(published_checkpoint(case))
    model = glip.build(case, converted).to(dtype).train()
    without_randomness(model)
    batch, targets, tokens = training_batch(case, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DeformableConv, "_convolve", convolution)
        answers = model(model.normalised(batch.images, batch.sizes).to(dtype), tokens)
        sizes = [(level.shape[-2], level.shape[-1]) for level in answers.deltas]
        anchors = [each.to(dtype) for each in anchors_of(sizes, model.config.model.anchor_scale, torch.device("cpu"))]
        boxes, positive = [target.boxes.to(dtype) for target in targets], [target.positive for target in targets]
        losses = glip_losses(answers, anchors, boxes, positive, tokens.mask, model.config.model)
        total(losses).backward()  # type: ignore[no-untyped-call]
    return head_outputs(answers) | gradients_and_norm(gradients(model, converted.names))


def scenes(case: Case, seed: int, images: int) -> dict[str, Array]:
    """Scenes with their annotations; the things are called as the first classes of the case."""
    inputs: dict[str, Array] = {}
    identities = case.spec.get("coco_category_ids") or list(range(1, 81))
    names = list(THING_IDS)
    for index in range(images):
        scene = draw_scene(seed, "train", index)
        labels = [names.index(thing.name) for thing in scene.things]
        corners = np.array([box_of(thing.mask) for thing in scene.things], np.float32).reshape(-1, 4)
        inputs |= {
            f"image{index}": scene.image,
            f"gt_bbox_xywh{index}": np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1),
            f"gt_category{index}": np.array([identities[label] for label in labels], np.int64),
            f"gt_iscrowd{index}": np.array([thing.crowd for thing in scene.things], np.int64),
        }
    return inputs
