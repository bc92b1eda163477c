"""Where training starts: a checkpoint of ours, a published one, or an ImageNet backbone; and which weights decay."""

import re
import sys
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from common.errors import UserError
from common.run.checkpoint import load_weights
from common.run.optimization import group_as_set
from common.run.settings import Optimizer
from maskworks.published import starting_weights
from maskworks.published.formats import read_published
from maskworks.published.names import local_file
from maskworks.published.renaming import resnet_body
from refinemask_psg.convert import COMPUTED, convert, recognise
from refinemask_psg.network import RefineMask

HEADS = ("box_heads.", "mask_heads.", "semantic_head.", "scene_graph.")
CLASS_LAYERS = (
    *(f"box_heads.{stage}.{layer}." for stage in range(3) for layer in ("classes", "deltas")),
    *(f"mask_heads.{head}.{layer}." for head in range(3) for layer in ("final", "logits")),
    *(f"mask_heads.0.stages.{stage}.logits." for stage in range(3)),
    *("semantic_head.side", "semantic_head.outconv."),
)
POSITIONS = "absolute_pos_embed"  # wangqixun/psg adds them to a detector that was trained without
NOT_DECAYED = ("norm", "relative_position_bias_table", POSITIONS)


def initialise(model: RefineMask, source: str) -> None:
    """Put the weights that `source` names into the model; heads and positions that it lacks start anew."""
    settings = model.config.model
    fixed_statistics = settings.backbone.startswith("resn") and settings.norm == "frozen_batch"

    def converted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return with_own_heads(model, convert(state).weights if recognise(state) else state, source)

    body = partial(backbone_weights, model)
    starting_weights.initialise(model, source, converted, body, CLASS_LAYERS, fixed_statistics)
    if settings.semantic_weights:
        start_semantic_head(model, settings.semantic_weights)


def with_own_heads(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Of the heads those that both have from the file, and the others from the model; likewise Swin's positions."""
    here = model.state_dict()
    missing = {
        name: value
        for name, value in here.items()
        if name not in weights and (name.startswith(HEADS) or name.endswith(POSITIONS))
    }
    if missing:
        parts = sorted({name if name.endswith(POSITIONS) else name.partition(".")[0] for name in missing})
        print(f"{source}: lacks layers of {', '.join(parts)}; they start anew", file=sys.stderr)
    return {name: value for name, value in weights.items() if name in here or not name.startswith(HEADS)} | missing


def backbone_weights(model: RefineMask, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A classifier's weights without its last layers; both Swins of a composite backbone start from the same."""
    if "layers.0.blocks.0.attn.qkv.weight" not in state:
        return resnet_body(state)
    left_out = re.compile(rf"{COMPUTED}|.*\.attn_mask|norm\..*|head\..*")
    body = {name: value for name, value in state.items() if not left_out.fullmatch(name)}
    prefixes = ("backbone.assisting.", "backbone.lead.") if model.config.model.composite else ("backbone.",)
    here = model.state_dict()
    return {
        prefix + name: value
        for prefix in prefixes
        for name, value in body.items()
        if prefix != "backbone.lead." or prefix + name in here  # the lead has no patch embedding
    }


def start_semantic_head(model: RefineMask, source: str) -> None:
    """U-2-Net's inner stages, from the published u2net.pth, into the semantic head; its other layers stay new."""
    if model.semantic_head is None:
        raise UserError(f"--model.semantic-weights {source}: this variant has no semantic head")
    weights, here = read_published(local_file(source))[0], model.semantic_head.state_dict()
    inner = {name: value for name, value in weights.items() if name.startswith("stage") and name in here}
    if not inner:
        raise UserError(f"{source}: not a file of U-2-Net: it has no stage3 to stage6")
    load_weights(model.semantic_head, here | inner, source)


def parameter_group(name: str, parameter: nn.Parameter, settings: Optimizer) -> tuple[float, float]:
    """Learning rate scale and weight decay: Swin's norms and position tables don't decay, all biases do.

    Names count, not layers, as in the originals.
    """
    scale, decay = group_as_set(name, parameter, settings)
    return scale, 0.0 if any(part in name for part in NOT_DECAYED) else decay
