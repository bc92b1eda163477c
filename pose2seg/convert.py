"""Names in published checkpoints -> names here: liruilong940607/Pose2Seg (pose2seg_release.pkl)."""

from collections.abc import Mapping
from copy import deepcopy

from torch import Tensor

from common.errors import UserError
from maskworks.published.origin import Origin, choose_recipe, settle
from maskworks.published.renaming import Converted, Rules, count, missing_counters, rename, resnet_body, whole
from pose2seg.config import VARIANTS, Config

SOURCES = ("liruilong940607/Pose2Seg",)
MARK = "segnet.pred_small.weight"  # only its files have it
LEVELS = 4
RULES: Rules = [
    (r"^pose2seg\.seg_branch\.", "segnet."),  # an older name
    (r"^segnet\.", "segmentation."),
    (r"^(backbone\.layer\d\.\d+)\.conv4\.", r"\1.downsample.0."),
    (r"^(backbone\.layer\d\.\d+)\.bn4\.", r"\1.downsample.1."),
    *((rf"^backbone\.fpn_c{n}p{n}\.", f"fpn.lateral.{n - 1}.") for n in range(1, LEVELS + 1)),
    *((rf"^backbone\.fpn_p{n}\.", f"fpn.output.{n - 1}.") for n in range(1, LEVELS + 1)),
]

# what decides results and is not in the tensors
DECIDING = ("model.input_size", "model.window", "model.mean", "model.std", "test.smallest_confidence")


def recognise(state: Mapping[str, Tensor]) -> str | None:
    """Whose names these are, or None if they are not Pose2Seg's."""
    return SOURCES[0] if any(rename(name, RULES[:1]) == MARK for name in state) else None


@whole
def convert(state: Mapping[str, Tensor], origin: Origin | None = None, variant: str | None = None) -> Converted[Config]:
    """Rename a published state dict; there is one published variant."""
    if recognise(state) is None:
        raise UserError(f"this is not a Pose2Seg checkpoint that is known here: {MARK} is not in it")
    names = {name: rename(name, RULES) for name in state}
    weights = {names[name]: value for name, value in state.items()}
    recipe = choose_recipe({"coco_occ": VARIANTS["coco_occ"]}, variant, origin)
    config = _config(weights, recipe.value)
    decisions = settle(config, recipe, DECIDING)
    return Converted(SOURCES[0], config, weights | missing_counters(weights), names, decisions)


@whole
def class_count(weights: Mapping[str, Tensor]) -> int:
    """People are all there is; the other channel of the last layer is the background."""
    return len(weights["segmentation.pred_small.weight"]) - 1


def known_classes(number: int) -> dict[str, int] | None:
    """The name and category id of the published model's class."""
    return {"person": 1} if number == 1 else None


def _config(weights: Mapping[str, Tensor], variant: str) -> Config:
    """The variant with the widths that the weights have."""
    config = deepcopy(VARIANTS[variant])
    stem = weights["segmentation.conv1.weight"]
    config.model.fpn_channels = len(weights["fpn.lateral.0.weight"])
    config.model.segmentation_channels, config.model.stem_kernel = len(stem), stem.shape[-1]
    config.model.segmentation_blocks = count(weights, r"segmentation\.layer1\.(\d+)\.conv1\.weight")
    config.model.decoder_channels = len(weights["segmentation.decoder1.0.conv1.weight"])
    return config


def backbone_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A torchvision classifier's weights under our names, without its last layer; None if it is something else."""
    weights = resnet_body(state)
    return None if weights is None else weights | missing_counters(weights)
