"""Export UPSNet to ONNX, up to the panoptic map of its input: python export.py --weights FILE --out model.onnx.

Inside: backbone, pyramid, all heads, proposals, non-maximum suppression, mask removal, the panoptic channels and
their argmax. The graph takes a photograph as `preprocess` prepares it, and its size before padding. Outside remain
that preparation, the final merge in the photograph's own pixels (postprocess.unify), and the instances' own masks.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

import upsnet
from common.data.batches import Prepared
from common.data.images import read_image
from common.errors import UserError
from common.run import commands
from common.run.onnx_export import export_onnx
from maskworks import shapes
from upsnet.boxes import clip, decode, nms
from upsnet.heads import BoxHead, enlarge, region_features
from upsnet.network import DIVISOR, Answers, UPSNet
from upsnet.panoptic import (
    VOID,
    Found,
    box_masks,
    candidates,
    panoptic_logits,
    panoptic_map,
    panoptic_terms,
    paste,
    remove_masks,
)
from upsnet.proposals import Level, Scored, all_anchors, by_anchor
from upsnet.targets import BOX_WEIGHTS

MOST_DIFFERENT = 1e-3  # part of the pixels
OUTPUTS = ("panoptic_logits", "panoptic", "semantic", "labels", "scores")
NOBODY = -1e9  # the logit of a channel without an instance


@dataclass
class Export:
    """Write the network with its panoptic head as one ONNX file, and check it against PyTorch."""

    weights: str
    """A checkpoint of ours."""
    out: str = "model.onnx"
    """The file to write."""
    image: str = ""
    """The photograph to check with; empty: a scene of the built-in data set."""
    size: tuple[int, int] | None = None
    """Height and width of the input, multiples of 32; without it: those of the photograph to check with."""
    instances: int = 32
    """How many instances the panoptic head may have."""


class Graph(nn.Module):
    """UPSNet in operations of fixed output shapes: where fewer boxes are found, the others have the score 0."""

    def __init__(self, model: UPSNet, instances: int):
        super().__init__()
        self.model, self.instances = model, instances

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """image [3, H, W] prepared, size [2] int64 -> logits [stuff + K + 1, H, W], maps [H, W], labels and scores [K].

        Channels of instances that are missing or removed are NOBODY; labels count from 1, 0 is no instance.
        """
        answers: Answers = self.model(image[None])
        found = self.found(answers, self.proposals(answers, size), size)
        semantic = enlarge(answers.semantic_logits, 4)[0]
        masks = self.model.masks_of(answers, 0, found.boxes, found.labels)
        logits, keep = self.panoptic(semantic, found, masks)
        labels = torch.where(keep & (found.scores > 0), found.labels, 0)
        return logits, panoptic_map(logits), semantic.argmax(dim=0), labels, found.scores

    def proposals(self, answers: Answers, size: Tensor) -> Scored:
        """The best regions; those with score 0 are none."""
        settings = self.model.config.test.proposals
        levels = answers.levels(0)
        found = [
            self.of_level(level, anchors, size) for level, anchors in zip(levels, all_anchors(levels), strict=True)
        ]
        boxes, scores = torch.cat([each.boxes for each in found]), torch.cat([each.scores for each in found])
        scores, best = scores.topk(min(settings.kept, len(scores)))
        return Scored(boxes[best], scores)

    def of_level(self, level: Level, anchors: Tensor, size: Tensor) -> Scored:
        settings = self.model.config.test.proposals
        logits, deltas = by_anchor(level)
        scores, best = logits.sigmoid().topk(min(settings.candidates, len(logits)))
        boxes = clip(decode(deltas[best], anchors[best]), size)
        return Scored(boxes, surviving(boxes, scores, settings.iou_threshold))

    def found(self, answers: Answers, proposals: Scored, size: Tensor) -> Found:
        """Who enters the panoptic head, the best first; those with score 0 are none."""
        test = self.model.config.test
        logits, deltas = self.model.box_head(region_features(answers.pyramid, [proposals.boxes], BoxHead.size))
        boxes = clip(decode(deltas.reshape(len(deltas), -1, 4), proposals.boxes[:, None], BOX_WEIGHTS), size)
        scores = logits.softmax(dim=1)[:, 1:] * (proposals.scores > 0)[:, None]
        best, index = scores.flatten().topk(min(len(scores), scores.numel()))
        region, label = torch.div(index, scores.shape[1], rounding_mode="floor"), index % scores.shape[1] + 1
        chosen = boxes[region, label]
        certain = torch.where(best > test.panoptic_score_threshold, best, 0.0)
        kept, order = surviving(chosen, certain, test.nms_threshold).topk(min(self.instances, len(certain)))
        return Found(chosen[order], kept, label[order])

    def panoptic(self, semantic: Tensor, found: Found, masks: Tensor) -> tuple[Tensor, Tensor]:
        """The panoptic channels, and which of the instances [K] they hold."""
        model, (height, width) = self.model, semantic.shape[1:]
        there = found.scores > 0
        logits = paste(masks, found.boxes.trunc(), height, width)
        keep = remove_masks((logits > 0) & there[:, None, None], found.labels, model.config.test.covered_fraction)
        nobody = ~keep.any()  # the first channel stays, without a mask
        keep = keep | (nobody & (torch.arange(len(keep), device=keep.device) == 0))
        inside = box_masks(found.boxes, height, width) & there[:, None, None]
        own = semantic[model.stuff - 1 + found.labels] * inside
        void = semantic[model.stuff :].amax(dim=0) - torch.where(keep[:, None, None], own, NOBODY).amax(dim=0)
        both = torch.where(keep[:, None, None], own + torch.where(nobody, 0.0, logits), NOBODY)
        return torch.cat((semantic[: model.stuff], both, void[None])), keep


def surviving(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The scores [n], 0 for the boxes that non-maximum suppression drops."""
    return torch.zeros_like(scores).index_put((kept := nms(boxes, scores, threshold),), scores[kept])


def main() -> None:
    options = tyro.cli(Export, prog="export.py")
    model = upsnet.load(options.weights)
    graph = Graph(model, options.instances).eval()
    path = Path(options.image) if options.image else sorted(shapes.ensure("val", count=4).images.iterdir())[0]
    prepared = model.preprocess(read_image(path))
    height, width = options.size or prepared.tensor.shape[1:]
    if height % DIVISOR or width % DIVISOR:
        raise UserError(f"--size {height} {width}: expected multiples of {DIVISOR}")
    session = export_onnx(graph, inputs_of(prepared, (height, width)), Path(options.out), OUTPUTS)
    check(model, options.instances, session, inputs_of(prepared, (height, width)))
    print(f"written: {Path(options.out).resolve()}; it takes [3, {height}, {width}], as UPSNet.preprocess prepares")


def inputs_of(prepared: Prepared, size: tuple[int, int]) -> dict[str, Tensor]:
    """The graph's inputs, padded to its size."""
    height, width = prepared.tensor.shape[1:]
    if height > size[0] or width > size[1]:
        raise UserError(f"the photograph is {height} x {width} when prepared; --size {size[0]} {size[1]} is too small")
    tensor = F.pad(prepared.tensor, (0, size[1] - width, 0, size[0] - height))
    return {"image": tensor, "size": torch.tensor(prepared.resized_size)}


@torch.inference_mode()
def check(model: UPSNet, instances: int, session: Any, inputs: dict[str, Tensor]) -> None:
    """Compare the file's maps and instances with what the model itself says."""
    answers = model(inputs["image"][None])
    test = replace(model.config.test, max_instances=instances)
    found = candidates(*model.boxes_of(answers, 0, inputs["size"]), test)
    semantic = model.large_semantics(answers, 0)
    masks = model.masks_of(answers, 0, found.boxes, found.labels)
    terms = panoptic_terms(found, masks, semantic, model.stuff, test.covered_fraction)
    channels = panoptic_map(panoptic_logits(terms, semantic, model.stuff))
    theirs = dict(zip(OUTPUTS, session.run(None, {name: value.numpy() for name, value in inputs.items()}), strict=True))
    kept = np.flatnonzero(theirs["labels"])
    # the file's channels stand where the candidates do, the model's only for those that are kept
    place = np.arange(VOID + 1)
    place[model.stuff + kept] = model.stuff + np.arange(len(kept))
    ours = found.labels[terms.kept].tolist() if len(terms.kept) else []
    if ours != theirs["labels"][kept].tolist():
        raise UserError("onnxruntime and PyTorch find different instances; the file is not to be trusted")
    different = float((place[theirs["panoptic"]] != channels.numpy()).mean())
    different_classes = float((theirs["semantic"] != semantic.argmax(dim=0).numpy()).mean())
    print(
        f"{len(kept)} instances, equal; of the pixels, {different:.4%} differ in the panoptic map and "
        f"{different_classes:.4%} in the semantic one"
    )
    if max(different, different_classes) > MOST_DIFFERENT:
        raise UserError("onnxruntime and PyTorch do not agree; the file is not to be trusted")


if __name__ == "__main__":
    commands.run(main)
