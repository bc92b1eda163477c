"""GLIP's cases: from the made-up checkpoint, as a user would, to features, answers, boxes, losses and gradients.

- Captions are written and tokenised from the case's class names.
- Published names and MMDetection's are told apart by the names of the outputs.
- Neighbours in the order of scores may swap by rounding: detections are matched by label and place, not by rank.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.results import Instances
from common.run.checkpoint import Unset
from glip.config import Config, Inference, Model, Text
from glip.convert import convert
from glip.dynamic_head import Answers
from glip.network import GLIP, ReadCaption
from glip.postprocess import instances, phrase_scores, phrase_tokens
from glip.prompts import class_prompt
from maskworks.published.coco_classes import COCO_CLASSES
from maskworks.published.renaming import Converted
from maskworks.shapes.scenes import draw_scene
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.glip import parts as glip_parts
from tests.parity.glip import rounding as glip_rounding
from tests.parity.glip import training as glip_training
from tests.parity.images import numbered
from tests.parity.networks import array, published_checkpoint
from tests.parity.rules import Rule
from tests.parity.settings import Fixed

INPUTS = ("tensor", "input_ids", "attention_mask")
FIXED: Fixed = {
    "settings.keep_ratio": (True,),
    "settings.input.color": ("BGR",),
    "settings.input.range": ("0-255",),
    "settings.input.pad_divisor": (32,),
    "settings.input.pad_value_after_normalisation": (0,),
    "settings.normalise.channel_order": ("BGR",),
    "settings.text.pad_to_max": (True,),
    "settings.text.n_layers_averaged": (1,),
    "settings.anchors.sizes": ([64, 128, 256, 512, 1024],),
    "settings.anchors.strides": ([8, 16, 32, 64, 128],),
    "settings.anchors.ratios": ([1.0],),
    "settings.anchors.scales_per_octave": (1,),
    "settings.box_coder.weights": ([10, 10, 5, 5],),
    "settings.box_coder.plus_one": (True,),
    "settings.box_coder.clip_dwh": (4.135166556742356,),
    "settings.head.group_norm_eps": (1e-5,),
    "settings.postprocess.min_size": (0,),
    "settings.test_cfg.min_bbox_size": (0,),
    "settings.test_cfg.nms.type": ("nms",),
    "settings.atss.topk": (9,),
    "settings.atss.min_inside": (0.01,),
    "settings.token_loss.alpha": (0.25,),
    "settings.token_loss.gamma": (2.0,),
}
INFORMATION = (  # follows from the checkpoint, or from the captions
    *("settings.head.num_convs", "settings.head.channels", "settings.head.fuse_embed_dim", "settings.log_scale_init"),
    *("settings.early_fusion", "settings.text_of_dot_product", "settings.positive_map*", "chunks.*", "class_names"),
    *("settings.padded_hw", "settings.score_columns", "*.positive_map_label_to_token.*", "demo_lists.names"),
)
CHUNK = "/chunk{}"  # how names of what one of several captions gives end; the first one's are also without it
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case, by name."""
    if not case.spec["state_dict"]:
        return glip_parts.compute(case, device)
    converted = convert(published_checkpoint(case))
    model = build(case, converted).to(device)
    if numbered(case, "gt_category"):
        return glip_training.train(case, model, converted)
    return infer(case, model)


def rule(case: Case, name: str) -> Rule | None:
    """How an output is compared: the spec's tolerances, in numbers and, for detections, in words."""
    tolerance = case.spec.get("tolerance", {})
    stated = tolerance if isinstance(tolerance, dict) else {"relative": tolerance, "boxes_px": 0.05, "scores": 2e-4}
    general = rules.stated(stated.get("relative"), 5e-4)
    parts = not case.spec["state_dict"]
    boxes, scores = (0.01, 1e-5) if parts else (stated.get("boxes_px", 0.02), stated.get("scores", 1e-4))
    training = bool(numbered(case, "gt_category"))

    def open_to() -> float:
        return glip_training.rounding(case, name)

    def boxes_open_to() -> float:
        return 0.0 if parts else glip_rounding.boxes(case, name)

    choices = [
        (r"in/tensor", rules.relative(1e-5)),
        (r"in/(input_ids|attention_mask)|(det\d*/)?labels|positive_map|(free/\d+|maps/\d+)/used", rules.exact()),
        (r"assign\d+/(positive_anchors|labels|token_targets)|target\d+/labels", rules.exact()),
        (r"(det\d*/)?boxes(_network|_xywh)?", rules.absolute(boxes, boxes_open_to)),
        (r"(det\d*/)?scores", rules.absolute(scores)),
        (r"target\d+/boxes|assign\d+/(reg_targets|centerness_targets)|anchors", rules.relative(1e-5)),
        (r"free/\d+/positive_map|maps/\d+", rules.absolute(1e-6)),
        (r"loss/.+", rules.relative(min(general, 1e-4))),
        (r"grad(_sample)?/.+|grad_total_norm", rules.relative(1e-3, open_to)),
        (
            r"head/(block\d+/(fused_)?(p\d|text)|(bbox_pred|centerness|token_logits|class_scores)/p\d)",
            rules.relative(general, open_to if training else None),
        ),
        (
            r"backbone/stage\d|backbone\d|fpn/p\d|fpn\d|text/hidden(_padded)?|tower\d|(token_logits|deltas|centerness)\d",
            rules.relative(general),
        ),
    ]
    whole = re.sub(CHUNK.format(r"\d+") + "$", "", name)
    return rules.first_of(choices, whole)


def build(case: Case, converted: Converted[Config]) -> GLIP:
    """The network the checkpoint was recognised as, with the case's settings and, strictly, its weights."""
    config = with_settings(converted.config, case.spec["settings"])
    with Unset():
        model = GLIP(config, class_names(case))
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


def class_names(case: Case) -> list[str]:
    """The names the prompt is made of; some cases only have the caption, training ones COCO's categories."""
    if "class_names" in case.spec:
        return list(case.spec["class_names"])
    if len(case.spec.get("coco_category_ids", COCO_CLASSES)) == len(COCO_CLASSES) and "captions" in case.spec:
        return list(COCO_CLASSES)
    caption = case.spec["settings"].get("caption") or next(iter(case.spec.get("captions", ())), "")
    return caption.split(". ") if caption else list(COCO_CLASSES)


def with_settings(config: Config, settings: dict[str, Any]) -> Config:
    """The variant with what a case may choose differently; layers follow from the checkpoint."""
    return replace(
        config,
        model=with_model_settings(config.model, settings),
        text=with_text_settings(config.text, settings),
        test=with_test_settings(config.test, settings),
    )


def with_model_settings(model: Model, settings: dict[str, Any]) -> Model:
    pixels = settings.get("input") or {
        "mean_bgr": settings["normalise"]["mean"],
        "std_bgr": settings["normalise"]["std"],
    }
    head = settings.get("head", {})
    return replace(
        model,
        mean=tuple(pixels["mean_bgr"]),
        std=tuple(pixels["std_bgr"]),
        groups=head.get("group_norm_groups", model.groups),
        fusion_heads=head.get("fuse_heads", model.fusion_heads),
        box_loss_weight=settings.get("reg_loss_weight", model.box_loss_weight),
    )


def with_text_settings(text: Text, settings: dict[str, Any]) -> Text:
    own = settings.get("text", {})
    chunk = settings.get("chunked_evaluation", -1)
    return replace(
        text,
        max_tokens=own.get("max_query_len", text.max_tokens),
        separator=own.get("separation_tokens", text.separator),
        chunk=chunk if chunk > 0 else 0,
    )


def with_test_settings(test: Inference, settings: dict[str, Any]) -> Inference:
    if "resize" in settings:  # MMDetection's
        own, (short_side, long_side) = settings["test_cfg"], sorted(settings["resize"])
        return replace(
            test,
            short_side=short_side,
            long_side=long_side,
            score_threshold=own["score_thr"],
            max_candidates=own["nms_pre"],
            nms_iou=own["nms"]["iou_threshold"],
            max_detections=own["max_per_img"],
        )
    own = settings.get("postprocess", settings)
    return replace(
        test,
        short_side=settings.get("min_size_test", test.short_side),
        long_side=settings.get("max_size_test", test.long_side),
        aggregation=own["score_agg"].lower(),
        score_threshold=own["pre_nms_thresh"],
        max_candidates=own["pre_nms_top_n_per_level"],
        nms_iou=own["nms_iou"],
        max_detections=own["detections_per_img"],
    )


def read_captions(case: Case, model: GLIP) -> list[ReadCaption]:
    """The case's captions after BERT, padded to the full length as the original pads them."""
    device, length = next(model.parameters()).device, model.config.text.max_tokens
    tokeniser = model.tokeniser
    captions = class_prompt(model.class_names, tokeniser, model.config.text).captions
    if "chunks" in case.spec:
        captions = [glip_training.caption_of(model, chunk["caption"]) for chunk in case.spec["chunks"]]
    written = [
        (tokeniser.tokens([each.text], length), tokeniser.positions(each.text, each.phrases), list(each.labels))
        for each in captions
    ]
    return [
        ReadCaption(tokens.to(device), model.text(tokens.to(device)), positions, torch.tensor(labels, device=device))
        for tokens, positions, labels in written
    ]


@torch.no_grad()
def infer(case: Case, model: GLIP) -> dict[str, Array]:
    """Features, answers and detections of one photograph, under Microsoft's and MMDetection's output names."""
    prepared = model.preprocess(case.inputs["image"])
    images = prepared.tensor[None].to(next(model.parameters()))  # in its number format too, see glip_rounding
    stages = model.backbone(images, with_first=True)
    levels = model.pyramid(stages[1:])
    computed = {"in/tensor": array(images)}
    computed |= {f"backbone/stage{index + 2}": array(stage) for index, stage in enumerate(stages)}
    computed |= {f"backbone{index}": array(stage) for index, stage in enumerate(stages[1:])}
    computed |= {f"fpn/{name}": array(level) for name, level in zip(LEVELS, levels, strict=True)}
    computed |= {f"fpn{index}": array(level) for index, level in enumerate(levels)}
    captions = read_captions(case, model)
    names, sizes = tuple(model.class_names), (prepared.original_size, prepared.resized_size)
    found = []
    for number, caption in enumerate(captions):
        seen, answers = ask(model, levels, caption)
        computed |= {f"{name}{CHUNK.format(number)}": value for name, value in seen.items()}
        computed |= seen if number == 0 else {}
        found.append(model.found(answers, 0, caption, prepared))
        own = findings(of_chunk(case, number), instances(found[-1:], prepared, names), *sizes)
        computed |= {f"{name}{CHUNK.format(number)}": value for name, value in own.items()}
    computed |= {
        "in/input_ids": array(torch.cat([caption.tokens.ids for caption in captions])),
        "in/attention_mask": array(torch.cat([caption.tokens.mask for caption in captions]).long()),
    }
    return computed | findings(case, instances(found, prepared, names), *sizes)


def of_chunk(case: Case, number: int) -> Case:
    """The case's outputs that end in a chunk's number, without it: what its detections are matched with."""
    end = CHUNK.format(number)
    return replace(case, arrays={n.removesuffix(end): each for n, each in case.arrays.items() if n.endswith(end)})


def ask(model: GLIP, levels: list[Tensor], caption: ReadCaption) -> tuple[dict[str, Array], Answers]:
    """The head, block by block as its forward pass goes, and everything on the way by name."""
    head, mask, real = model.head, caption.tokens.mask, caption.tokens.mask[0]
    text = caption.hidden
    computed = {"text/hidden": array(text[:, real]), "text/hidden_padded": array(text[:, ~real])}
    text = text if head.fusions else text * mask[..., None]
    for index, block in enumerate(head.blocks):
        where = f"head/block{index}"
        if head.fusions:
            levels, text = head.fusions[index](levels, text, mask)
            computed |= named(f"{where}/fused_p", levels) | {f"{where}/fused_text": array(text[:, real])}
            text = head.text_layers[index](text, mask)
            computed[f"{where}/text"] = array(text[:, real])
        levels = block(levels)
        computed |= named(f"{where}/p", levels)
    answers = head.answers(levels, text)
    tokens = phrase_tokens(caption.positions, mask.shape[1], mask.device)
    with_tokens = tokens.used.any(dim=1)
    for index, name in enumerate(LEVELS):
        logits = answers.token_logits[index]
        scores = phrase_scores(logits[0], tokens, model.config.test.aggregation)
        computed |= {
            f"head/bbox_pred/{name}": array(answers.deltas[index]),
            f"head/centerness/{name}": array(answers.centerness[index]),
            f"head/token_logits/{name}": array(logits),
            f"head/class_scores/{name}": array(scores[:, with_tokens]),
            f"tower{index}": array(levels[index]),
            f"token_logits{index}": array(logits[:, :, real]),
            f"deltas{index}": array(answers.deltas[index]),
            f"centerness{index}": array(answers.centerness[index]),
        }
    return computed, answers


def named(prefix: str, levels: list[Tensor]) -> dict[str, Array]:
    return {f"{prefix}{index + 3}": array(level) for index, level in enumerate(levels)}


def findings(
    case: Case, result: Instances, original: tuple[int, int], resized: tuple[int, int], prefix: str = "det/"
) -> dict[str, Array]:
    """Detections under the case's names, in the order of the expected ones that they are matched with."""
    boxes, scores, labels = array(result.boxes), array(result.scores), array(result.labels)
    last_pixel = boxes - np.array([0, 0, 1, 1], np.float32)
    ratio = np.array([resized[1] / original[1], resized[0] / original[0]] * 2, np.float32)
    whole = {
        f"{prefix}boxes_network": last_pixel * ratio,
        f"{prefix}boxes": last_pixel,
        f"{prefix}boxes_xywh": np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1),
        f"{prefix}scores": scores,
        f"{prefix}labels": labels + 1,
        "boxes": boxes,
        "scores": scores,
        "labels": labels,
    }
    names = (f"{prefix}labels", f"{prefix}boxes") if f"{prefix}labels" in case.outputs else ("labels", "boxes")
    order = matched(whole, {name: case.outputs[name] for name in names if name in case.outputs}, names)
    return {name: values[order] for name, values in whole.items()}


def matched(found: Mapping[str, Array], expected: Mapping[str, Array], names: tuple[str, str]) -> Array:
    """An order of what was found: to each expected detection the nearest one of its label that is left."""
    labels, boxes = found[names[0]], found[names[1]]
    left, order = np.ones(len(labels), bool), []
    for label, box in zip(*(expected.get(name, ()) for name in names), strict=True):
        distance = np.where(left & (labels == label), np.abs(boxes - box).max(axis=1, initial=0), np.inf)
        if np.isfinite(distance).any():
            order.append(int(distance.argmin()))
            left[order[-1]] = False
    return np.array([*order, *np.flatnonzero(left)], np.int64)


def on_scene(case: Case, seed: int, images: int = 2) -> tuple[dict[str, Any], dict[str, Array]]:
    """Scenes of the built-in dataset for a network case's inputs: their entries in the spec, and the arrays."""
    inputs = {key: case.inputs[key][:1] for key in ("input_ids", "attention_mask")}
    if "image" in case.inputs:
        return {}, {"image": draw_scene(seed, "val", 0).image, **inputs}
    tokens = {key: value.repeat(images, axis=0) for key, value in inputs.items()}  # all have one caption
    return {}, tokens | glip_training.scenes(case, seed, images)
