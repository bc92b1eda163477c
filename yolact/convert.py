"""Names in published checkpoints -> names here: dbolya/yolact, MMDetection 2 and 3."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from common.conversion import Converted, Rules, count, rename, whole
from common.errors import UserError
from common.origin import Origin
from yolact.config import VARIANTS, Config

DBOLYA, MMDETECTION = "dbolya/yolact", "MMDetection 2 or 3"
SIGNATURES = {DBOLYA: "proto_net.0.weight", MMDETECTION: "mask_head.protonet.0.weight"}

RESNET: Rules = [
    *((rf"^backbone\.layers\.{stage}\.", f"backbone.layer{stage + 1}.") for stage in range(4)),
    (r"\.conv_offset_mask\.", ".offset."),
]
DARKNET: Rules = [(r"^backbone\._preconv\.", "backbone.stem."), (r"^backbone\.layers\.", "backbone.stages.")]
HEADS: Rules = [
    *((rf"^fpn\.lat_layers\.{2 - level}\.", f"fpn.lateral.{level}.") for level in range(3)),  # coarse to fine there
    *((rf"^fpn\.pred_layers\.{2 - level}\.", f"fpn.output.{level}.") for level in range(3)),
    (r"^fpn\.downsample_layers\.", "fpn.downsample."),
    *((rf"^proto_net\.{2 * number}\.", f"protonet.coarse.{number}.") for number in range(3)),
    (r"^proto_net\.8\.", "protonet.fine."),
    (r"^proto_net\.10\.", "protonet.prototypes."),
    (r"^prediction_layers\.0\.upfeature\.0\.", "head.shared."),
    (r"^prediction_layers\.0\.conf_layer\.", "head.class_logits."),
    (r"^prediction_layers\.0\.bbox_layer\.", "head.deltas."),
    (r"^prediction_layers\.0\.mask_layer\.", "head.coefficients."),
    (r"^semantic_seg_conv\.", "semantic."),
    *((rf"^maskiou_net\.maskiou_net\.{2 * number}\.", f"mask_iou.convs.{number}.") for number in range(6)),
]
FROM_MMDETECTION: Rules = [
    (r"^neck\.lateral_convs\.(\d)\.conv\.", r"fpn.lateral.\1."),
    (r"^neck\.fpn_convs\.([012])\.conv\.", r"fpn.output.\1."),
    (r"^neck\.fpn_convs\.3\.conv\.", "fpn.downsample.0."),
    (r"^neck\.fpn_convs\.4\.conv\.", "fpn.downsample.1."),
    (r"^mask_head\.protonet\.", "proto_net."),
    (r"^bbox_head\.head_convs\.0\.conv\.", "head.shared."),
    (r"^bbox_head\.conv_cls\.", "head.class_logits."),
    (r"^bbox_head\.conv_reg\.", "head.deltas."),
    (r"^bbox_head\.conv_coeff\.", "head.coefficients."),
    (r"^(mask_head\.segm_branch|segm_head)\.segm_conv\.", "semantic."),  # a head of its own in MMDetection 2
    *HEADS,
]
# left in old files of dbolya's: a first version of the backbone's names, and downsampling beyond P7
LEFT_OVER = re.compile(r"backbone\.layer(?!s\.).*|fpn\.downsample_layers\.([2-9]|\d\d+)\..*")


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not YOLACT's."""
    return next((source for source, name in SIGNATURES.items() if name in state), None)


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; the variant follows from its shapes, or is the one named."""
    source = recognise(state)
    if source is None:
        raise UserError(
            "this is not a YOLACT checkpoint that is known here: neither "
            + " nor ".join(SIGNATURES.values())
            + " is in it"
        )
    if source == DBOLYA:
        state = {name: value for name, value in state.items() if not LEFT_OVER.fullmatch(name)}
    backbone = DARKNET if "backbone._preconv.0.weight" in state else RESNET
    rules = [*backbone, *(HEADS if source == DBOLYA else FROM_MMDETECTION)]
    names = {name: rename(name, rules) for name in state}
    weights = {names[name]: value for name, value in state.items()} | missing_counters(names.values())
    if source == MMDETECTION:
        for name in ("head.class_logits.weight", "head.class_logits.bias"):
            weights[name] = with_background_first(weights[name], class_count(weights) + 1)
    return Converted(source, config_of(weights, source, variant), weights, names)


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    return len(weights["semantic.weight"])


def missing_counters(names: Any) -> dict[str, Tensor]:
    """Batch norms count their batches only since PyTorch 0.4.1; older files get zeros."""
    known = set(names)
    counters = {re.sub("running_mean$", "num_batches_tracked", name) for name in known if name.endswith("running_mean")}
    return {name: torch.tensor(0) for name in sorted(counters - known)}


def with_background_first(parameter: Tensor, classes: int) -> Tensor:
    """A class layer's weight or bias whose background is each prior's last class."""
    blocks = parameter.view(-1, classes, *parameter.shape[1:])
    return torch.cat((blocks[:, -1:], blocks[:, :-1]), dim=1).flatten(0, 1)


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A classifier's file as a backbone's weights: torchvision's ResNets, or Darknet-53 under dbolya's names."""
    if "layer1.0.conv1.weight" in state:
        return {f"backbone.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    if "_preconv.0.weight" in state or "layers.0.0.conv1.weight" in state:
        rules = DARKNET if "_preconv.0.weight" in state else RESNET
        body = {name: value for name, value in state.items() if not name.startswith("fc.")}
        weights = {rename(f"backbone.{name}", rules): value for name, value in body.items()}
        return weights | missing_counters(weights)
    return None


def config_of(weights: Mapping[str, Tensor], source: str, variant: str | None) -> Config:
    """The published variant with this network, or the one named; base, im700 and im400 are one network."""
    if variant is None:
        variant = variant_of(weights)
    config = deepcopy(VARIANTS[variant])
    model = config.model
    model.backbone = backbone_of(weights)
    model.norm = "batch" if "backbone.bn1.running_mean" in weights or model.backbone == "darknet53" else "group"
    model.deformable_interval = deformable_interval_of(weights)
    model.channels = len(weights["head.shared.weight"])
    model.prototypes = len(weights["protonet.prototypes.weight"])
    model.mask_iou = "mask_iou.convs.0.weight" in weights
    if source == MMDETECTION:
        follow_mmdetection(config)
    return config


def follow_mmdetection(config: Config) -> None:
    """MMDetection's is another network, and it turns answers into results by other rules."""
    config.model.rectified_pyramid = False
    config.model.coarse_levels_from = "c5"
    config.model.square_priors = False
    config.model.aspect_ratios = (2.0, 1.0, 0.5)
    config.test.resize = "bytes"
    config.test.level_candidates = 1000
    config.test.threshold_after_nms = True
    config.test.clip_boxes = True
    config.test.whole_pixels = False
    config.test.drop_empty_boxes = False


def variant_of(weights: Mapping[str, Tensor]) -> str:
    backbone = backbone_of(weights)
    if "mask_iou.convs.0.weight" in weights:
        return "plus_resnet50_550" if backbone == "resnet50" else "plus_base"
    if backbone == "resnet50":
        return "resnet50_pascal" if class_count(weights) == 20 else "resnet50_550"
    return {"resnet101": "base", "darknet53": "darknet53_550"}.get(backbone, "shapes")


def backbone_of(weights: Mapping[str, Tensor]) -> Any:
    if "backbone.stem.0.weight" in weights:
        return "darknet53"
    blocks = count(weights, r"backbone\.layer3\.(\d+)\.conv1\.weight")
    return {1: "resnet10", 6: "resnet50"}.get(blocks, "resnet101")


def deformable_interval_of(weights: Mapping[str, Tensor]) -> int:
    """How far apart the deformable convolutions are in the longest stage; 0 where there is none."""
    pattern = r"backbone\.layer3\.(\d+)\.conv2\.offset\.weight"
    blocks = sorted(int(match[1]) for name in weights if (match := re.fullmatch(pattern, name)))
    if not blocks:
        return 0
    return blocks[1] - blocks[0] if len(blocks) > 1 else 1
