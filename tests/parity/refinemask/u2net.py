"""U-2-Net's cases, and those of the semantic head that is made of its stages."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Prepared
from common.errors import UserError
from maskworks.published.renaming import rename
from refinemask_psg.convert import RULES
from refinemask_psg.psg.panoptic_merge import semantic_map
from refinemask_psg.semantic import SemanticU2Head, semantic_losses
from refinemask_psg.u2net import U2Net
from refinemask_psg.u2net.network import as_picture, map_losses, sides, stages, stretch
from tests.parity import networks, rules
from tests.parity.case import SAMPLE, Array, Case
from tests.parity.networks import Gradients, array, gradient_outputs, gradient_spread, gradients, published_checkpoint
from tests.parity.rules import Rule

OUTPUTS = ("d0", "d3", "d4", "d5", "d6")
SPREADS: dict[str, dict[str, float]] = {}  # by case, as measuring takes three training steps
LARGEST_SPREADS = {"semantic": 0.15, "saliency": 0.3, "losses": 1e-3}  # that rounding may excuse
REACH = 20.0  # of logits whose probabilities float64 tells from 0 and 1, to seven digits
OURS = 1e-5  # how far our loss may be from the original's formula in float64
SEMANTIC = "roi_head.semantic_head.u2net."


def is_one(case: Case) -> bool:
    return is_semantic(case) or "stage1.rebnconvin.conv_s1.weight" in case.spec["state_dict"]


def is_semantic(case: Case) -> bool:
    return all(name.startswith(SEMANTIC) for name in case.spec["state_dict"])


def compute(case: Case, device: str) -> dict[str, Array]:
    return compute_semantic(case, device) if is_semantic(case) else compute_saliency(case, device)


def rule(case: Case, name: str) -> Rule | None:
    """The spec's tolerances."""
    stated: dict[str, Any] = case.spec["tolerance"]
    maps = rules.stated(stated.get("maps", stated.get("logits, losses")), 1e-4)
    choices = [
        (r"in/(train_)?tensor", rules.relative(rules.stated(stated.get("tensor"), 1e-3))),
        (r"saved_png", rules.absolute(1)),
        (r"argmax|stuff_map", differing(2e-3)),
        (r"grad/.+", rules.relative(rules.stated(stated.get("gradients"), 2e-3), lambda: rounding(case, name))),
        (r"loss/.+", rules.relative(maps, lambda: rounding(case, name))),
        (r"stage\dd?|d\d|normpred|after/.+", rules.relative(maps)),
    ]
    return rules.first_of(choices, name)


def differing(share: float) -> Rule:
    """Class maps: the share of pixels that differ."""
    return Rule("differing pixels", share, lambda computed, expected: float((computed != expected).mean()))


def compute_saliency(case: Case, device: str) -> dict[str, Array]:
    """Stages, maps, the picture that is written, losses and gradients."""
    model = saliency_network(case).to(device)
    image, size = case.inputs["image"], case.spec["settings"]["size"]
    tensor = model.preprocess(image, size)[None].to(device)
    with torch.no_grad():
        found = stages(model.eval(), tensor)
        maps = [logits.sigmoid() for logits in sides(model, found)]
    computed = {"in/tensor": array(tensor)} | {name: array(values) for name, values in found.items()}
    computed |= {f"d{index}": array(values) for index, values in enumerate(maps)}
    normed = stretch(maps[0][0])
    computed |= {"normpred": array(normed), "saved_png": as_picture(normed[0], (image.shape[0], image.shape[1]))}
    if "train_label" in case.inputs:
        computed |= train_saliency(case, model, tensor)
    return computed


def saliency_network(case: Case) -> U2Net:
    weights = published_checkpoint(case)
    model = U2Net(small=len(weights["stage6.rebnconvin.conv_s1.weight"]) == 64)
    model.load_state_dict(weights, strict=True)
    return model


def train_saliency(case: Case, model: U2Net, tensor: Tensor) -> dict[str, Array]:
    crops = training_crops(case, tensor)
    wanted = torch.from_numpy(case.inputs["train_label"]).to(tensor.device)
    names = {name: name for name in case.spec["state_dict"]}
    networks.learns_what_is_compared(case, model, names)
    maps = model.train()(crops)
    check_ours(maps, wanted)
    losses = original_loss(maps, wanted)
    total = torch.stack(losses).sum()
    total.backward()  # type: ignore[no-untyped-call]
    computed = {"in/train_tensor": array(crops), "loss/total": array(total)}
    computed |= {f"loss/d{index}": array(loss) for index, loss in enumerate(losses)}
    computed |= {f"after/{name}": array(buffer) for name, buffer in model.named_buffers()}
    return computed | gradient_outputs(gradients(model, names))


def training_crops(case: Case, whole: Tensor) -> Tensor:
    """What is learned from: given whole, or cut out as the spec says ("[:, :, 0:96, 64:160] and [:, :, :16, :20]")."""
    inputs = case.inputs
    if "train_tensor" in inputs:
        return torch.from_numpy(inputs["train_tensor"]).to(whole)
    texts = [case.spec["inputs"].get(name) for name in ("train_tensor", "train_label")]
    texts += [case.spec.get("settings", {}).get("train_batch"), case.spec.get("train_batch")]
    found = [re.findall(r"\[:, :, (\d*):(\d+), (\d*):(\d+)\]", str(text)) for text in texts]
    stated, labels = next((crops for crops in found if crops), []), len(inputs["train_label"])
    if len(stated) != labels:
        raise UserError(f"{labels} labels to train on, but the spec states {len(stated)} crops")
    corners = [[int(number or 0) for number in crop] for crop in stated]
    return torch.cat([whole[:, :, top:bottom, left:right] for top, bottom, left, right in corners])


def original_loss(maps: list[Tensor], wanted: Tensor) -> list[Tensor]:
    """The original's loss: of probabilities, which float32 rounds to 0 and 1 where ours, of logits, goes on."""
    return [F.binary_cross_entropy(logits.sigmoid(), wanted.to(logits)) for logits in maps]


def check_ours(maps: list[Tensor], wanted: Tensor) -> None:
    """Ours is the same formula: where float64 tells probabilities from 0 and 1, the original's agrees with it."""
    clear = [logits.detach().clamp(-REACH, REACH) for logits in maps]
    exact = original_loss([logits.double() for logits in clear], wanted)
    for index, (ours, theirs) in enumerate(zip(map_losses(clear, wanted), exact, strict=True)):
        if not abs(float(ours) / float(theirs) - 1) <= OURS:
            raise UserError(
                f"loss/d{index} of logits is {float(ours):.7g}, of float64 probabilities {float(theirs):.7g}"
            )


def compute_semantic(case: Case, device: str) -> dict[str, Array]:
    """Logits, class map, the map of stuff, losses and gradients."""
    model, names = semantic_head(published_checkpoint(case))
    model = model.to(device)
    features = torch.from_numpy(case.inputs["p2"]).to(device)
    with torch.no_grad():
        outputs = model.eval()(features)
    computed = {name: array(values) for name, values in zip(OUTPUTS, outputs, strict=True)}
    settings = case.spec["settings"]
    sizes = {name: (size[0], size[1]) for name, size in settings["postprocess"].items()}
    padded = torch.zeros(3, *sizes["pad"])
    classes = semantic_map(outputs[0][0], Prepared(padded, sizes["ori"], sizes["img"])).labels
    things, stuff = settings["num_things"], settings["num_stuff"]
    computed["argmax"] = array(classes).astype(np.uint8)
    computed["stuff_map"] = array(torch.where(classes >= things, classes, things + stuff)).astype(np.uint8)
    if "train_label" in case.inputs:
        networks.learns_what_is_compared(case, model, names)
        each = train_semantic(case, model.train(), features)
        computed |= {f"loss/ce_{name}": array(value) for name, value in zip(OUTPUTS, each, strict=True)}
        computed["loss/loss_semantic"] = array(settings["loss_weight"] * torch.stack(each).mean())
        computed |= gradient_outputs(gradients(model, names))
    return computed


def semantic_head(weights: Mapping[str, Tensor]) -> tuple[SemanticU2Head, dict[str, str]]:
    """The head with these weights, strictly, and the names they have there."""
    names = {name: rename(name, RULES).removeprefix("semantic_head.") for name in weights}
    channels = weights[f"{SEMANTIC}input_fc.weight"].shape[1]
    model = SemanticU2Head(channels, len(weights[f"{SEMANTIC}outconv.bias"]) - 1)
    model.load_state_dict({names[name]: value for name, value in weights.items()}, strict=True)
    return model, names


def train_semantic(case: Case, model: SemanticU2Head, features: Tensor) -> list[Tensor]:
    """The losses of the outputs on crops; their gradients are in the model then."""
    crops = training_crops(case, features)
    wanted = torch.from_numpy(case.inputs["train_label"]).to(features.device).long()
    each = semantic_losses(model(crops), wanted)
    (case.spec["settings"]["loss_weight"] * torch.stack(each).mean()).backward()
    return each


def rounding(case: Case, name: str) -> float:
    """How far float32 leaves losses and gradients open.

    The deepest maps have 2 x 3 pixels, so batch norms see 12 values, and what a ReLU near 0 lets through moves whole
    channels: float32 gradients of any two ways to compute them differ from each other and from float64's, by 5 % in
    the semantic head and by up to 30 % in u2netp's first layer. The original's do too: its losses are up to 3e-4 off
    float64's, its gradients' norms up to 6 %. Only a processor that adds up in another order than its own shows it.
    """
    folder = str(case.folder.resolve())
    if folder not in SPREADS and is_semantic(case):
        SPREADS[folder] = gradient_spread(lambda dtype: semantic_values(case, dtype), published_name)
    elif folder not in SPREADS:
        columns = partial(saliency_values, case, torch.float32, torch.channels_last)
        SPREADS[folder] = gradient_spread(lambda dtype: saliency_values(case, dtype), published_name, columns)
    kind = "semantic" if is_semantic(case) else "losses" if name.startswith("loss/") else "saliency"
    return min(2 * SPREADS[folder].get(published_name(name), 0.0), LARGEST_SPREADS[kind])


def semantic_values(case: Case, dtype: torch.dtype) -> Gradients:
    model, names = semantic_head(published_checkpoint(case))
    train_semantic(case, model.to(dtype).train(), torch.from_numpy(case.inputs["p2"]).to(dtype))
    return gradients(model, names)


def saliency_values(case: Case, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> Gradients:
    """Gradients and losses of training on the case's crops."""
    model = saliency_network(case)
    crops = training_crops(case, model.preprocess(case.inputs["image"], case.spec["settings"]["size"])[None])
    model = model.to(dtype, memory_format=layout).train()
    losses = original_loss(model(crops.to(dtype, memory_format=layout)), torch.from_numpy(case.inputs["train_label"]))
    torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
    return gradients(model, {name: name for name in case.spec["state_dict"]}) | {
        f"loss/d{index}": loss.detach().numpy() for index, loss in enumerate(losses)
    }


def published_name(name: str) -> str:
    return name.removeprefix("grad/").removesuffix(SAMPLE)
