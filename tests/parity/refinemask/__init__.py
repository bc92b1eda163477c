"""RefineMask's cases: two-stage detectors here, U-2-Net and the semantic head in refinemask_u2net.py.

Detector cases come under the names of MMDetection 2 ("neck_p2", "det_boxes") or of MMDetection 3 ("fpn0", "boxes");
what is computed is the same, so every quantity is simply given under both.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.data.batches import Batch, Target, collate
from common.errors import UserError
from common.ops import masks as rle
from common.run.checkpoint import Unset
from maskworks.published.origin import Origin
from maskworks.published.renaming import Converted
from refinemask_psg.boundary import fuse
from refinemask_psg.box_head import run_cascade
from refinemask_psg.config import Config, Inference, Model
from refinemask_psg.convert import class_count, convert
from refinemask_psg.losses import stage_losses
from refinemask_psg.mask_head import MASK_SIZES, REGION_SIZE, MaskAnswers, of_class
from refinemask_psg.network import ASSISTANT, DIVISOR, RefineMask, TrainingStep
from refinemask_psg.postprocess import detections, paste, probabilities, scale_of
from refinemask_psg.rois import pool, with_image_index
from refinemask_psg.rpn import TRAINING_NMS
from refinemask_psg.targets import foreground_target, mask_targets
from tests.parity import rules
from tests.parity.case import SAMPLE, SAMPLE_LIMIT, Array, Case, sample
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
from tests.parity.refinemask import scenes as refinemask_scenes
from tests.parity.refinemask import u2net as refinemask_u2net
from tests.parity.rules import Rule
from tests.parity.settings import TWO_STAGES, Fixed, check_cap, one_of

INPUTS = ("tensor", "train_tensor")
FIXED: Fixed = TWO_STAGES | {
    "settings.normalise.channel_order": ("RGB",),
    "settings.train_cfg.rpn.assigner.pos_iou_thr": (0.7,),
    "settings.train_cfg.rpn.assigner.*_iou*": (0.3,),
    "settings.train_cfg.rpn.sampler.pos_fraction": (0.5,),
    "settings.train_cfg.rpn_proposal.nms*.iou_threshold": (TRAINING_NMS,),
    "settings.train_cfg.rpn_proposal.nms_thr": (TRAINING_NMS,),
    "settings.train_cfg.rcnn.sampler.pos_fraction": (0.25,),
    "settings.mean": ([0.485, 0.456, 0.406],),
    "settings.std": ([0.229, 0.224, 0.225],),
    "settings.ignore_index": (255,),
}
INFORMATION = (
    *("settings.train_cfg.*.debug", "settings.published_size", "settings.skimage", "settings.out_channels"),
    *("settings.loss_weight",),  # followed where there is a loss
    *("settings.mmdetection", "settings.detectron2.*"),  # a configuration: the converter reads it
)
LOSS_NAMES = {  # theirs, without the pyramid's suffix, and ours
    "loss_rpn_cls": "rpn_objectness",
    "loss_rpn_bbox": "rpn_box",
    "loss_cls": "class",
    "loss_bbox": "box",
    "loss_instance": "mask",
    "loss_mask": "mask",
    "loss_semantic": "foreground",
}


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case, by name."""
    if refinemask_u2net.is_one(case):
        return sampled_as_stated(case, refinemask_u2net.compute(case, device))
    converted = convert(published_checkpoint(case), origin_of(case))
    model = build(case, converted).to(device)
    computed = infer(model, case.inputs["image"]) if "image" in case.inputs else {}
    if numbered(case, "gt_boxes"):
        computed |= train(case, model, training_batch(case, model).to(torch.device(device)), converted)
    return sampled_as_stated(case, computed)


def origin_of(case: Case) -> Origin | None:
    """What the case has of the original's configuration: it decides when the file is converted."""
    settings = case.spec["settings"]
    if "mmdetection" in settings:
        return Origin.read("epoch_12.pth", {"meta": {"cfg": settings["mmdetection"]}})
    return Origin("model_final.pth", recipe=settings["detectron2"]) if "detectron2" in settings else None


def sampled_as_stated(case: Case, computed: dict[str, Array]) -> dict[str, Array]:
    """With the samples that have a limit of their own: inputs, and outputs whose entry says so."""
    entries = {f"in/{name}": entry for name, entry in case.spec["inputs"].items()} | case.spec["outputs"]
    limits = {
        f"{name}{SAMPLE}": entry.get("sample_limit", SAMPLE_LIMIT if name.startswith("in/") else case.sample_limit)
        for name, entry in entries.items()
        if isinstance(entry, dict)
    }
    return computed | {
        name: sample(computed[name.removesuffix(SAMPLE)], limit)
        for name, limit in limits.items()
        if name not in computed and name.removesuffix(SAMPLE) in computed
    }


def rule(case: Case, name: str) -> Rule | None:
    """How an output is compared: the spec's tolerances; MMDetection 3's cases have one number for all."""
    if refinemask_u2net.is_one(case):
        return refinemask_u2net.rule(case, name)
    stated = case.spec.get("tolerance", {})
    tolerances = stated if isinstance(stated, dict) else {}
    general = next((value for key, value in tolerances.items() if key.startswith("features")), stated)
    general = rules.stated(general, 1e-4)
    masks = 5e-3 if tolerances else general  # "mismatching pixels <= 0.5% of the union over all masks"
    choices = [
        (r"in/tensor|net_input", rules.relative(1e-6)),
        (r"det_labels|labels|train/(pos_gt\d+|(stage|mask|semantic)_?\w*target\d*@bits)", rules.exact()),
        (r"masks@bits|masks", rules.mask_bits(masks)),
        (r"mask_fused", rules.relative(rules.stated(tolerances.get("mask_fused"), 1e-2))),
        (
            r"grad/.+",
            rules.relative(
                rules.stated(tolerances.get("gradients"), 1e-3),
                lambda: rounding_of_gradients(case, name, gradients_in, part_of),
            ),
        ),
        (
            r"backbone\d?(_stage)?\d|(neck_p|fpn)\d|rpn_(cls|reg)_p\d|rpn_(logits|deltas)\d|proposals(/(boxes|scores))?"
            r"|roi_feat_(bbox\d|mask)|(cls_score|bbox_pred)\d|rois_last|det_(boxes|scores)|boxes|scores"
            r"|(stage\d/)?(class_logits|deltas|boxes)(_stage\d)?|mask_(stage\d|logits\w*)|(stage\d/)?mask_logits\w*"
            r"|semantic_logits|train/(proposals|sampled_boxes)\d+|loss/.+",
            rules.relative(general),
        ),
    ]
    return rules.first_of(choices, name)


def build(case: Case, converted: Converted[Config]) -> RefineMask:
    """The network the checkpoint was recognised as, with the case's settings and, strictly, its weights."""
    names = [f"class {index}" for index in range(class_count(converted.weights))]
    told = {"mmdetection", "detectron2"} & set(case.spec["settings"])  # the converter has followed it
    with Unset():
        model = RefineMask(converted.config if told else with_settings(case, converted.config), names)
    model.load_state_dict(converted.weights, strict=True)
    return model.eval()


def with_settings(case: Case, variant: Config) -> Config:
    """The variant with what a case may choose differently from the published configuration."""
    settings = case.spec["settings"]
    colours = settings.get("normalise") or settings["preprocess"]
    mean, std = (tuple(one_of(colours, (name, f"{name}_rgb"), "settings")) for name in ("mean", "std"))
    model = replace(variant.model, drop_path=0.0, rpn_sampling="even", mean=mean, std=std)
    return replace(variant, model=with_training_settings(case, model), test=with_test_settings(variant.test, settings))


def with_test_settings(test: Inference, settings: dict[str, Any]) -> Inference:
    scale = settings.get("resize") or settings.get("img_scale") or settings["preprocess"]["img_scale_long_short"]
    rpn, rcnn = settings["test_cfg"]["rpn"], settings["test_cfg"]["rcnn"]
    check_cap(rpn)
    return replace(
        test,
        long_side=max(scale),
        short_side=min(scale),
        proposals_before_nms=rpn["nms_pre"],
        proposals=most_proposals(rpn),
        proposal_nms=rpn["nms_thr"] if "nms_thr" in rpn else rpn["nms"]["iou_threshold"],
        score_threshold=rcnn["score_thr"],
        nms=rcnn["nms"]["iou_threshold"],
        max_instances=rcnn["max_per_img"],
        mask_threshold=rcnn["mask_thr_binary"],
    )


def with_training_settings(case: Case, model: Model) -> Model:
    settings = case.spec["settings"].get("train_cfg")
    if settings is None:
        return model
    stages = settings["rcnn"] if isinstance(settings["rcnn"], list) else [settings["rcnn"]]
    samplers, assigners = [stage["sampler"] for stage in stages], [stage["assigner"] for stage in stages]
    for each in assigners:
        one_of(each, ("pos_iou_thr", "neg_iou_thr", "min_pos_iou"), "train_cfg.rcnn.assigner")
    check_cap(settings["rpn_proposal"])
    return replace(
        model,
        rpn_samples=settings["rpn"]["sampler"]["num"],
        proposals_before_nms=settings["rpn_proposal"]["nms_pre"],
        proposals=most_proposals(settings["rpn_proposal"]),
        box_ious=tuple(each["pos_iou_thr"] for each in assigners),
        box_samples=of_all_stages([each["num"] for each in samplers]),
        box_low_quality=of_all_stages([each["match_low_quality"] for each in assigners]),
        sampling={"OHEMSampler": "hard", "RandomSampler": "even"}[of_all_stages([each["type"] for each in samplers])],
        mask_targets="bitmaps" if numbered(case, "gt_masks") else "polygons",
    )


def of_all_stages(stated: list[Any]) -> Any:
    """The setting that each stage of a cascade could have of its own, and here has in common."""
    if any(value != stated[0] for value in stated):
        raise UserError(f"train_cfg.rcnn: {stated} differ, and can only be the same for all stages here")
    return stated[0]


def most_proposals(rpn: dict[str, Any]) -> int:
    most: int = rpn["max_per_img"] if "max_per_img" in rpn else rpn["max_num"]
    return most


@torch.no_grad()
def infer(model: RefineMask, image: Array) -> dict[str, Array]:
    """Features, answers and results of one photograph [H, W, 3] RGB."""
    prepared = model.preprocess(image)
    images = prepared.tensor[None].to(next(model.parameters()).device)
    features, answers = model.backbone(images), model(images)
    computed = {"in/tensor": array(images), "net_input": array(images)}
    for number, levels in enumerate(features):
        for level, feature in enumerate(levels):
            names = [f"backbone{number}_stage{level}"]
            names += [f"backbone_stage{level}", f"backbone{level}"] if len(features) == 1 else []
            computed |= dict.fromkeys(names, array(feature))
    for level, feature in enumerate(answers.pyramid):
        computed |= dict.fromkeys((f"neck_p{level + 2}", f"fpn{level}"), array(feature))
        logits, deltas = array(answers.objectness[level]), array(answers.deltas[level])
        computed |= dict.fromkeys((f"rpn_cls_p{level + 2}", f"rpn_logits{level}"), logits)
        computed |= dict.fromkeys((f"rpn_reg_p{level + 2}", f"rpn_deltas{level}"), deltas)
    proposals = model.propose(answers, 0, prepared.resized_size)
    computed |= {"proposals/boxes": array(proposals.boxes), "proposals/scores": array(proposals.scores)}
    computed["proposals"] = np.concatenate((array(proposals.boxes), array(proposals.scores)[:, None]), axis=1)
    stages = run_cascade(model.box_heads, answers.pyramid, proposals.boxes, prepared.resized_size, model.config.model)
    for index, stage in enumerate(stages):
        logits, deltas = array(stage.logits), array(stage.deltas.flatten(1))
        computed[f"roi_feat_bbox{index}"] = array(
            pool(answers.pyramid, stage.regions, 7, model.config.model.finest_scale)
        )
        names = f"cls_score{index}", f"stage{index}/class_logits", f"class_logits_stage{index}"
        computed |= dict.fromkeys(names, logits)
        computed |= dict.fromkeys((f"bbox_pred{index}", f"stage{index}/deltas", f"deltas_stage{index}"), deltas)
        computed |= dict.fromkeys((f"stage{index}/boxes", f"boxes_stage{index}"), array(stage.regions[:, 1:]))
    computed |= {"rois_last": array(stages[-1].regions), "class_logits": logits, "deltas": deltas}
    found = detections(stages, prepared.resized_size, scale_of(prepared), model.config)
    boxes = array(found.boxes)
    computed |= {"det_boxes": boxes, "boxes": boxes, "det_scores": array(found.scores), "scores": array(found.scores)}
    computed |= dict.fromkeys(("det_labels", "labels"), array(found.labels))
    regions = with_image_index([found.input_boxes])
    computed["roi_feat_mask"] = array(pool(answers.pyramid, regions, REGION_SIZE, model.config.model.finest_scale))
    if not len(model.mask_heads):
        return computed
    heads = model.masks(answers.pyramid, found)
    computed |= mask_outputs(heads, found.labels)
    size = prepared.original_size
    masks = array(paste(probabilities(heads, found.labels), found.boxes, size, model.config.test))
    computed["masks@bits"] = np.packbits(masks.reshape(-1))
    computed["masks"] = packed(masks)
    return computed


def mask_outputs(heads: list[MaskAnswers], labels: Tensor) -> dict[str, Array]:
    if heads[0].foreground is not None:
        computed = {f"mask_stage{index}": array(logits) for index, logits in enumerate(heads[0].stages)}
        fused = array(fuse(heads[0].stages))
        return computed | {"mask_fused": fused, "semantic_logits": array(heads[0].foreground)}
    computed = {}
    for index, head in enumerate(heads):
        whole, own = array(head.stages[0]), array(of_class(head.stages[0], labels)[:, 0])
        computed |= {f"stage{index}/mask_logits": whole, f"stage{index}/mask_logits_of_label": own}
        for number in (f"{index}", f"_stage{index}"):
            computed |= {f"mask_logits{number}": whole, f"mask_logits_of_label{number}": own}
    return computed | {"mask_logits": whole, "mask_logits_of_label": own}


def training_batch(case: Case, model: RefineMask) -> Batch:
    """The photographs as the network sees them, with ground truth in the network input's pixels."""
    boxes, labels = numbered(case, "gt_boxes"), numbered(case, "gt_labels")
    photographs = learned_from(case, len(boxes))
    sizes = torch.tensor([model.preprocess(image).resized_size for image in photographs])
    items = []
    for number, photograph in zip(boxes, photographs, strict=True):
        image = resized_and_padded(photograph, model)
        masks, polygons = masks_of(case, number, image.shape[1], image.shape[2])
        target = Target(
            boxes=torch.from_numpy(case.inputs[boxes[number]]),
            labels=torch.from_numpy(case.inputs[labels[number]]).long(),
            masks=torch.from_numpy(masks),
            polygons=polygons,
        )
        items.append((image, target))
    return replace(collate(items, DIVISOR), sizes=sizes)


def masks_of(case: Case, number: int, height: int, width: int) -> tuple[Array, list[list[Array]] | None]:
    """One image's ground truth [n, H, W], and its outlines where it is given as those."""
    bitmaps, entries = numbered(case, "gt_masks"), case.spec["inputs"]
    if number in bitmaps:
        return case.unpacked(bitmaps[number]), None
    name = numbered(case, "gt_boxes")[number].replace("boxes", "polygons")
    if "value" not in entries.get(name, {}):
        raise UserError(
            f"{case.name}: neither in/{name.replace('polygons', 'masks')}@bits nor the spec's {name} is given"
        )
    stated = entries[name]["value"]
    masks = rle.decode([rle.from_polygons(each, height, width) for each in stated])
    return masks, [[np.array(outline).reshape(-1, 2) for outline in each] for each in stated]


def resized_and_padded(photograph: Array, model: RefineMask) -> Tensor:
    """The network input before it is normalised: bytes [3, H, W]."""
    settings, prepared = model.config.model, model.preprocess(photograph)
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.mean, settings.std))
    height, width = prepared.resized_size
    pixels = (prepared.tensor * std + mean).round().to(torch.uint8)
    inside = torch.zeros_like(pixels)
    inside[:, :height, :width] = pixels[:, :height, :width]
    return inside


def train(case: Case, model: RefineMask, batch: Batch, converted: Converted[Config]) -> dict[str, Array]:
    """Samples, targets, loss terms, and the gradients of their sum under the published parameters' names."""
    learns_what_is_compared(case, model, converted.names)
    step = model.train().training_step(model.normalise(batch.images, batch.sizes), batch)
    total(step.terms).backward()  # type: ignore[no-untyped-call]
    computed = {"loss/total": array(total(step.terms))} | losses(model, step) | samples(step)
    computed |= targets(model, batch, step)
    return computed | gradient_outputs(gradients(model, converted.names))


def losses(model: RefineMask, step: TrainingStep) -> dict[str, Array]:
    """Their names end in the pyramid's number, and in the assistant's weight."""
    composite, stages = model.config.model.composite, len(model.box_heads)
    computed: dict[str, Array] = {}
    for pyramid in range(1 + composite):
        assists = composite and pyramid == 0
        number = str(pyramid) if composite else ""
        suffix = f"{number}_w{model.config.model.assistant_weight}" if assists else number
        for index in range(stages):
            stage, prefix = (f"stage{index + 1}_", f"s{index}.") if stages > 1 else ("", "")
            answers = step.stages[pyramid * stages + index]
            labels = torch.cat([each.labels for each in step.sampled[pyramid * stages + index]])
            accuracy = 100 * (answers.logits.argmax(dim=1) == labels).float().mean()
            # the original weighs the assistant's accuracy as if it were a loss
            computed[f"loss/{prefix}acc{number}"] = array(accuracy * model.config.model.assistant_weight**assists)
            for theirs, ours in LOSS_NAMES.items():
                for name in (stage + ours, ours):
                    term = step.terms.get((ASSISTANT if assists else "") + name)
                    if term is not None:
                        where = "" if "rpn" in theirs else prefix
                        computed[f"loss/{where}{theirs}{suffix}"] = array(term)
    return computed


def samples(step: TrainingStep) -> dict[str, Array]:
    """Proposals and samples, numbered as the original's code makes them: call by call, and in a call image by image."""
    proposals = [each for images in step.proposals for each in images]
    sampled = [each for images in step.sampled for each in images]
    computed: dict[str, Array] = {}
    for index, (boxes, scores) in enumerate(proposals):
        computed[f"train/proposals{index}"] = array(torch.cat((boxes, scores[:, None]), dim=1))
    for index, each in enumerate(sampled):
        computed[f"train/sampled_boxes{index}"] = array(each.boxes)
        computed[f"train/pos_gt{index}"] = array(each.objects)
    return computed


def targets(model: RefineMask, batch: Batch, step: TrainingStep) -> dict[str, Array]:
    """The masks' targets, the first call's, and each stage's own loss."""
    stages, from_polygons = len(model.box_heads), model.config.model.mask_targets == "polygons"
    computed: dict[str, Array] = {}
    for call, answers in enumerate(step.masks):
        pairs = zip(batch.targets, step.sampled[(call + 1) * stages - 1], strict=True)
        each_image = [mask_targets(target, sampled, MASK_SIZES, from_polygons) for target, sampled in pairs]
        drawn = [torch.cat(images) for images in zip(*each_image, strict=True)]
        if call == 0:
            computed["train/mask_target@bits"] = np.packbits(array(drawn[1]).reshape(-1))
        if answers.foreground is None:
            continue
        each = stage_losses(answers.stages, [masks[:, None] for masks in drawn])
        computed |= {f"loss/mask_stage{index}_call{call}": array(loss) for index, loss in enumerate(each)}
        if call == 0:
            for index, masks in enumerate(drawn):
                computed[f"train/stage_target{index}@bits"] = np.packbits(array(masks).reshape(-1))
            wanted = foreground_target(batch.targets, *answers.foreground.shape[2:])
            computed["train/semantic_target@bits"] = np.packbits(array(wanted).astype(bool).reshape(-1))
    return computed


def gradients_in(case: Case, dtype: torch.dtype) -> Gradients:
    converted = convert(published_checkpoint(case))
    model = build(case, converted).to(dtype).train()
    batch = training_batch(case, model)
    step = model.training_step(model.normalise(batch.images, batch.sizes).to(dtype), batch)
    total(step.terms).backward()  # type: ignore[no-untyped-call]
    return gradients(model, converted.names)


def part_of(name: str) -> str:
    """backbone, neck, rpn_head, roi_head.bbox_head or roi_head.mask_head, from a name or an output named after it."""
    parts = name.removesuffix(SAMPLE).rpartition("/")[2].split(".")
    return ".".join(parts[:2]) if parts[0] == "roi_head" else parts[0]


def on_scene(case: Case, seed: int, images: int = 1) -> tuple[dict[str, Any], dict[str, Array]]:
    """Scenes of the built-in dataset for a case's inputs: their entries in the spec, and the arrays."""
    return refinemask_scenes.on_scene(case, seed, images)
