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
from numpy.typing import NDArray
from torch import Tensor, nn

import upsnet
from common.data.images import read_image
from maskworks import command_line, exported, exporting, shapes
from maskworks.command_line import program
from maskworks.onnx_export import Found as Segments
from maskworks.onnx_export import compare, fixed_count, outside_both, padded
from upsnet.heads import enlarge
from upsnet.network import DIVISOR, Answers, UPSNet
from upsnet.panoptic_merge import (
    Found,
    box_masks,
    candidates,
    panoptic_logits,
    panoptic_map,
    panoptic_terms,
    paste,
    remove_masks,
)

OUTPUTS = ("panoptic_logits", "panoptic", "semantic", "labels", "scores")
NOBODY = -1e9  # the logit of a channel without an instance
APART = 1000  # more than there are labels of one kind
Map = NDArray[np.integer[Any]]


@dataclass
class Export(exporting.ExportOfOneSize):
    """Write the network with its panoptic head as one file, and check it against PyTorch."""

    size: tuple[int, int] | None = None
    """Height and width of the input, multiples of 32; without it: those of the photograph to check with."""
    instances: int = 32
    """How many instances the panoptic head may have."""


class Graph(nn.Module):
    """UPSNet in operations of fixed output shapes: where fewer boxes are found, the others have the score 0.

    The panoptic head is written anew: who is removed is found one after the other, which a graph can only do for a
    fixed number of instances, and so the channels of those that are missing or removed stay, as NOBODY.
    """

    def __init__(self, model: UPSNet, instances: int):
        super().__init__()
        self.model, self.instances = model, instances

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """image [3, H, W] prepared, size [2] int64 -> logits [stuff + K + 1, H, W], maps [H, W], labels and scores [K].

        Labels count from 1, 0 is no instance.
        """
        answers: Answers = self.model(image[None])
        some = candidates(*self.model.boxes_of(answers, 0, size), self.model.config.test)
        found = Found(*fixed_count(some, self.instances))
        semantic = enlarge(answers.semantic_logits, 4)[0]
        masks = self.model.masks_of(answers, 0, found.boxes, found.labels)
        logits, keep = self.panoptic(semantic, found, masks)
        labels = torch.where(keep & (found.scores > 0), found.labels, 0)
        return logits, panoptic_map(logits), semantic.argmax(dim=0), labels, found.scores

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


def main() -> None:
    options = command_line.read(Export, "export.py")
    model = upsnet.load(options.weights, device="cpu")
    model.config.test = replace(model.config.test, max_instances=options.instances)
    graph = Graph(model, options.instances).eval()
    path = Path(options.image) if options.image else sorted(shapes.ensure("val", count=4).images.iterdir())[0]
    prepared = model.preprocess(read_image(path))
    height, width = options.size or prepared.tensor.shape[1:]
    image = padded(prepared.tensor.permute(1, 2, 0), (height, width), DIVISOR)["image"].permute(2, 0, 1).contiguous()
    inputs = {"image": image, "size": torch.tensor(prepared.resized_size)}
    words = exported.words("upsnet", model.config, model.class_names, model.category_ids, (height, width))
    session = exporting.write(graph, inputs, options, OUTPUTS, words)
    check(model, session, inputs, options.precision)
    exporting.finish(session, options)
    print(f"it takes [3, {height}, {width}], as UPSNet.preprocess prepares")


def check(model: UPSNet, session: Any, inputs: dict[str, Tensor], precision: str = "fp32") -> None:
    """Compare the segments of the file's maps with those that the model itself finds."""
    theirs = dict(zip(OUTPUTS, session.run(None, {name: value.numpy() for name, value in inputs.items()}), strict=True))
    places = np.flatnonzero(theirs["labels"])
    labels, scores = theirs["labels"][places], theirs["scores"][places]

    @torch.inference_mode()
    def find(model: UPSNet) -> Segments:
        answers = model(inputs["image"][None])
        found = candidates(*model.boxes_of(answers, 0, inputs["size"]), model.config.test)
        semantic = model.large_semantics(answers, 0)
        masks = model.masks_of(answers, 0, found.boxes, found.labels)
        terms = panoptic_terms(found, masks, semantic, model.stuff, model.config.test.covered_fraction)
        channels = panoptic_map(panoptic_logits(terms, semantic, model.stuff)).numpy()
        labels, scores = found.labels[terms.kept].numpy(), found.scores[terms.kept].numpy()
        return segments(channels, model.stuff + np.arange(len(labels)), labels, scores, semantic.argmax(dim=0).numpy())

    found = segments(theirs["panoptic"], model.stuff + places, labels, scores, theirs["semantic"])
    height, width = theirs["panoptic"].shape
    compare(find, model, found, outside_both, f"{width} x {height}, instances and segments", precision)


def segments(channels: Map, own: Map, labels: Map, scores: NDArray[np.floating[Any]], semantic: Map) -> Segments:
    """Instances with labels, scores and their `own` channels, other channels, and the semantic map's classes."""
    others, classes = np.setdiff1d(channels, own), np.unique(semantic)
    masks = [channels == own[:, None, None], channels == others[:, None, None], semantic == classes[:, None, None]]
    return Segments(
        np.concatenate((scores, np.ones(len(others) + len(classes)))),
        np.concatenate((labels, APART + others, 2 * APART + classes)),
        np.concatenate(masks),
    )


if __name__ == "__main__":
    program.run(main)
