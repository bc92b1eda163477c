"""SOLOv2's cases: from the made-up checkpoint, as a user would, to features, results, losses and gradients.

Network cases come under the names of WXinlong/SOLO ("backbone/c2", "final/scores") or of MMDetection 3
("fpn0", "scores"); what is computed is the same, so every quantity is simply given under both.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.batches import Batch, Target, collate, normalise
from common.ops import matrix_nms
from common.run.checkpoint import Unset
from maskworks.published.origin import Origin
from maskworks.published.renaming import Converted
from maskworks.shapes.scene_files import THING_IDS
from maskworks.shapes.scenes import Scene, draw_scene
from solov2.config import Config, Inference, Model
from solov2.convert import convert
from solov2.losses import solov2_losses
from solov2.network import DIVISOR, Answers, SOLOv2
from solov2.postprocess import boxes_around, candidates, points_nms
from solov2.targets import assign, quarter
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.images import numbered
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
from tests.parity.settings import Fixed, one_of
from tests.parity.solov2 import ops as solov2_ops
from tests.parity.solov2 import rounding as solov2_rounding

INPUTS = ("tensor",)
FIXED: Fixed = {
    "settings.keep_ratio": (True,),
    "settings.size_divisor": (32,),
    "settings.channel_order": ("RGB",),
    "settings.img_norm_cfg.to_rgb": (True,),
    "settings.model.*_head.loss_ins.type": ("DiceLoss",),
    "settings.model.*_head.loss_cate.type": ("FocalLoss",),
    "settings.model.*_head.loss_*.use_sigmoid": (True,),
    "settings.model.*_head.loss_cate.gamma": (2.0,),
    "settings.model.*_head.loss_cate.alpha": (0.25,),
    "settings.model.*_head.loss_cate.loss_weight": (1.0,),
}
INFORMATION = (  # most of it follows from the checkpoint
    *("settings.model.type", "settings.model.pretrained", "settings.model.backbone.*", "settings.model.neck.*"),
    *("settings.model.mask_feat_head.*", "settings.model.*_head.type", "settings.model.*_head.norm_cfg.*"),
    *(f"settings.model.*_head.{name}" for name in ("num_classes", "*_channels", "stacked_convs", "*dcn*")),
    *("settings.nms_sizes", "settings.note", "settings.detectron2.*"),  # a config.yaml: the converter reads it
)
MASK_THRESHOLD, UPDATE_THRESHOLD = ("mask_thr", "mask_thr_binary"), ("update_thr", "filter_thr")


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case, by name."""
    if "annotations_json" in case.inputs:
        return solov2_ops.compute_scores(case)
    if not case.spec["state_dict"]:
        return solov2_ops.compute(case, device)
    converted = convert(published_checkpoint(case), origin_of(case))
    model = build(case, converted).to(device)
    computed = infer(model, case) if "image" in case.inputs else {}
    batch = training_batch(case)
    return computed | (train(case, model, batch.to(torch.device(device)), converted) if batch else {})


def origin_of(case: Case) -> Origin | None:
    """A config.yaml of Detectron2's, where the case has one: it decides when the file is converted."""
    told = case.spec["settings"].get("detectron2")
    return Origin("model_final.pth", recipe=told) if told else None


def rule(case: Case, name: str) -> Rule | None:
    """How an output is compared."""
    if "annotations_json" in case.inputs:
        return solov2_ops.score_rule(case, name)
    if not case.spec["state_dict"]:
        return solov2_ops.rule(case, name)
    return network_rule(case, name)


def network_rule(case: Case, name: str) -> Rule | None:
    """The spec's tolerances; MMDetection's cases have one number for all, SOLO's name them."""
    tolerances = case.spec.get("tolerance", {})
    if not isinstance(tolerances, dict):
        tolerances = dict.fromkeys(("relative_error", "final_scores_abs", "masks"), tolerances)
    general = rules.stated(tolerances.get("relative_error"), 1e-4)

    def measured(stated: Rule) -> Rule:
        return replace(stated, measured=lambda: solov2_rounding.of_masks(case, name, stated))

    choices = [
        (r"in/tensor|net_input", rules.relative(1e-6)),
        (r"(final/)?scores", measured(rules.absolute(rules.stated(tolerances.get("final_scores_abs"), 1e-4)))),
        (r"post/(pre_nms_mask_areas|nms_scores)|final/mask_areas", measured(rules.relative(general))),
        (r"final/masks_packed|masks", rules.mask_bits(rules.stated(tolerances.get("masks"), 1e-3))),
        (r"(final/|post/pre_nms_)?labels|target/(cate|ins_ind|grid_order|ins_masks)_\d+_\d+(_packed)?", rules.exact()),
        (r"grad(_sample)?/.+", rules.relative(general, lambda: rounding_of_gradients(case, name, gradients_in))),
        (
            r"backbone(/c)?\d|fpn(/p)?\d|(cate_logits|category_logits|kernel|cate_scores_nms)/?\d|mask_feat(ure)?"
            r"|post/pre_nms_scores|loss/loss_(ins|cate)",
            rules.relative(general),
        ),
    ]
    return rules.first_of(choices, name)


def build(case: Case, converted: Converted[Config]) -> SOLOv2:
    """The network the checkpoint was recognised as, with the case's settings and, strictly, its weights."""
    classes = len(converted.weights["category_kernel_head.category.bias"])
    config, settings = converted.config, case.spec["settings"]
    if "detectron2" not in settings:
        config = with_settings(config, settings)
    with Unset():
        model = SOLOv2(config, [f"class {index}" for index in range(classes)])
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


def with_settings(variant: Config, settings: dict[str, Any]) -> Config:
    """The variant with what a case may choose differently from the published configuration."""
    return replace(
        variant, model=with_model_settings(variant.model, settings), test=with_test_settings(variant.test, settings)
    )


def with_test_settings(test: Inference, settings: dict[str, Any]) -> Inference:
    scale = one_of(settings, ("test_img_scale", "resize", "img_scale"), "settings")
    long_side, short_side = sorted(scale, reverse=True)
    original = settings["test_cfg"]
    return replace(
        test,
        long_side=long_side,
        short_side=short_side,
        score_threshold=original["score_thr"],
        mask_threshold=one_of(original, MASK_THRESHOLD, "test_cfg"),
        update_threshold=one_of(original, UPDATE_THRESHOLD, "test_cfg"),
        kernel=original["kernel"],
        sigma=original["sigma"],
        max_candidates=original["nms_pre"],
        max_instances=original["max_per_img"],
    )


def with_model_settings(model: Model, settings: dict[str, Any]) -> Model:
    """Everything but the layers: those follow from the checkpoint, and strict loading checks them."""
    if "model" not in settings:  # MMDetection's cases state only what inference needs
        return model
    head = settings["model"].get("bbox_head") or settings["model"]["mask_head"]
    return replace(
        model,
        grids=tuple(head["num_grids"]),
        strides=tuple(head["strides"]),
        scale_ranges=tuple((float(low), float(high)) for low, high in head["scale_ranges"]),
        centre_fraction=head["sigma"],
        mask_loss_weight=head["loss_ins"]["loss_weight"],
        mean=tuple(settings["img_norm_cfg"]["mean"]),
        std=tuple(settings["img_norm_cfg"]["std"]),
    )


@torch.no_grad()
def infer(model: SOLOv2, case: Case) -> dict[str, Array]:
    """Features, answers and results of one photograph [H, W, 3] RGB."""
    image = case.inputs["image"]
    prepared = model.preprocess(image)
    images = prepared.tensor[None].to(next(model.parameters()))  # in its number format too, see solov2_rounding
    features = model.backbone(images)
    answers = model(images)
    computed = {"in/tensor": array(images), "net_input": array(images), "mask_feat": array(answers.mask_feature)}
    computed["mask_feature"] = computed["mask_feat"]
    levels: dict[str, list[Tensor]] = {"backbone/c": features, "fpn/p": model.pyramid(features)}
    for prefix, tensors in levels.items():
        for level, values in enumerate(tensors):
            computed[f"{prefix}{level + 2}"] = computed[f"{prefix.split('/')[0]}{level}"] = array(values)
    for level, (logits, kernels) in enumerate(zip(answers.category_logits, answers.kernels, strict=True)):
        computed[f"cate_logits/{level}"] = computed[f"category_logits{level}"] = array(logits)
        computed[f"kernel/{level}"] = computed[f"kernel{level}"] = array(kernels)
        computed[f"cate_scores_nms/{level}"] = array(points_nms(logits.sigmoid()).permute(0, 2, 3, 1))
    # thousands of masks, which predict makes again; a case being recorded has no outputs yet
    if not case.outputs or any(name.startswith("post/") for name in case.outputs):
        computed |= around_matrix_nms(model, answers)
    return computed | results(model, image)


def around_matrix_nms(model: SOLOv2, answers: Answers) -> dict[str, Array]:
    """The instances before and after matrix NMS."""
    found = candidates(
        [logits[0] for logits in answers.category_logits],
        [kernels[0] for kernels in answers.kernels],
        answers.mask_feature[0],
        model.config.model.strides,
        model.config.test,
    )
    kernel, sigma = model.config.test.kernel, model.config.test.sigma
    return {
        "post/pre_nms_scores": array(found.scores),
        "post/pre_nms_labels": array(found.labels),
        "post/pre_nms_mask_areas": array(found.masks.sum(dim=(1, 2))),
        "post/nms_scores": array(matrix_nms(found.masks, found.labels, found.scores, kernel, sigma)),
    }


def results(model: SOLOv2, image: Array) -> dict[str, Array]:
    """What a user gets."""
    instances = model.predict([image])[0]
    assert instances.masks is not None
    masks, scores, labels = array(instances.masks), array(instances.scores), array(instances.labels)
    return {
        "final/scores": scores,
        "scores": scores,
        "final/labels": labels,
        "labels": labels,
        "final/mask_areas": masks.sum(axis=(1, 2)),
        "final/masks_packed": np.packbits(masks.reshape(-1)),
        "masks": packed(masks),
    }


def training_batch(case: Case) -> Batch | None:
    """The photographs that the losses are for, as one batch: of one array, or one array for each."""
    inputs = case.inputs
    boxes, labels, masks = (numbered(case, f"gt_{kind}") for kind in ("boxes", "labels", "masks"))
    photographs = {number: inputs[name] for number, name in numbered(case, "train_image").items()}
    if -1 in photographs and photographs[-1].ndim == 4:
        photographs = dict(enumerate(photographs[-1]))
    if not photographs:
        return None
    items = []
    for index, photograph in photographs.items():
        target = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, *photograph.shape[:2]).bool())
        if index in boxes:  # an image may show nothing
            target = Target(
                boxes=torch.from_numpy(inputs[boxes[index]]),
                labels=torch.from_numpy(inputs[labels[index]]).long() - 1,  # SOLO counts from 1: 0 is background
                masks=torch.from_numpy(case.unpacked(masks[index])),
            )
        items.append((torch.from_numpy(photograph).permute(2, 0, 1).contiguous(), target))
    return collate(items, DIVISOR)


def train(case: Case, model: SOLOv2, batch: Batch, converted: Converted[Config]) -> dict[str, Array]:
    """Targets, loss terms, and the gradients of their sum under the published parameters' names."""
    computed: dict[str, Array] = {}
    for image, target in enumerate(batch.targets):
        computed |= targets(model, image, target)
    learns_what_is_compared(case, model, converted.names)
    losses = model.train().losses(batch)
    total(losses).backward()  # type: ignore[no-untyped-call]
    computed |= {"loss/loss_ins": array(losses["mask"]), "loss/loss_cate": array(losses["category"])}
    return computed | gradient_outputs(gradients(model, converted.names))


def targets(model: SOLOv2, image: int, target: Target) -> dict[str, Array]:
    """What each level's grid must answer for one image."""
    settings, classes = model.config.model, len(model.class_names)
    levels = assign(target, settings.grids, settings.scale_ranges, settings.centre_fraction, classes)
    small = quarter(target.masks)
    computed: dict[str, Array] = {}
    for level, answer in enumerate(levels):
        positive = torch.zeros(answer.categories.numel(), dtype=torch.bool, device=answer.categories.device)
        positive[answer.cells] = True
        where = f"{image}_{level}"
        computed |= {
            f"target/cate_{where}": array(torch.where(answer.categories == classes, 0, answer.categories + 1)),
            f"target/ins_ind_{where}": array(positive),
            f"target/grid_order_{where}": array(answer.cells),
            f"target/ins_masks_{where}_packed": np.packbits(array(small[answer.instances]).reshape(-1)),
        }
    return computed


def gradients_in(case: Case, dtype: torch.dtype) -> Gradients:
    """One training step's gradients, computed in a number format."""
    converted = convert(published_checkpoint(case))
    batch = training_batch(case)
    assert batch is not None
    model = build(case, converted).to(dtype).train()
    settings = model.config.model
    images = normalise(batch.images, batch.sizes, settings.mean, settings.std).to(dtype)
    category_logits, kernels, mask_feature = model(images)
    losses = solov2_losses(category_logits, kernels, mask_feature, batch.targets, settings)
    total(losses).backward()  # type: ignore[no-untyped-call]
    return gradients(model, converted.names)


def on_scene(case: Case, seed: int, images: int = 2) -> tuple[dict[str, Any], dict[str, Array]]:
    """Scenes of the built-in dataset for a network case's inputs: their entries in the spec, and the arrays."""
    inputs: dict[str, Array] = {"image": draw_scene(seed, "val", 0).image}
    entries: dict[str, Any] = {"image": {"meaning": "RGB, HWC; the original image"}}
    if training_batch(case) is not None:
        photographs = []
        for index in range(images):
            photograph, boxes, labels, masks = training_scene(draw_scene(seed, "train", index))
            photographs.append(photograph)
            inputs |= {
                f"gt_boxes_{index}": boxes,
                f"gt_labels_{index}": labels,
                f"gt_masks_{index}_packed": np.packbits(masks.reshape(-1)),
            }
            entries[f"gt_masks_{index}_packed"] = {"unpacked_shape": list(masks.shape)}
        inputs["train_image"] = np.stack(photographs)
    return entries, inputs


def training_scene(scene: Scene) -> tuple[Array, Array, Array, Array]:
    """A scene at twice its size, cut to 256 x 256: image, boxes, labels from 1, masks of what is seen."""
    names = list(THING_IDS)
    image = scene.image.repeat(2, axis=0).repeat(2, axis=1)[:256, :256]
    masks, labels = [], []
    for thing in scene.things:
        mask = thing.mask.repeat(2, axis=0).repeat(2, axis=1)[:256, :256]
        if mask.any() and not thing.crowd:
            masks.append(mask)
            labels.append(names.index(thing.name) + 1)
    stacked = np.stack(masks) if masks else np.zeros((0, 256, 256), bool)
    boxes = boxes_around(torch.from_numpy(stacked))
    return image, array(boxes), np.array(labels, np.int64), stacked
