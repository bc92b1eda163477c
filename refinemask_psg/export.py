"""Export RefineMask to ONNX: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already scaled, uint8 [H, W, 3] RGB, padded at the right and the bottom to the
size that it was exported for, and its `size` before padding. It holds everything up to each object's box, score,
class and fused soft mask, both NMS included, in the network input's pixels; it gives a fixed number of objects, best
first, and those with score 0 are none. Outside of it remain scaling the photograph, and pasting the masks into it
(`refinemask_psg.postprocess.paste`): the photograph's own size is not in the graph.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import nms

import refinemask_psg
from common.data.batches import round_up
from common.data.images import fit_within, read_image, resize
from common.errors import UserError
from common.run import commands
from common.run.onnx_export import Found, compare, export_onnx
from maskworks import shapes
from refinemask_psg.box_head import answer, moved
from refinemask_psg.boxes import decode
from refinemask_psg.network import DIVISOR, Answers, RefineMask
from refinemask_psg.postprocess import Detections, probabilities
from refinemask_psg.rpn import STDS, all_anchors, flat

CANDIDATES = 1000  # (region, class) pairs that enter NMS; the threshold leaves fewer on photographs


@dataclass
class Export:
    """Write the network and its post-processing as one ONNX file, and check it against PyTorch."""

    weights: str
    """A checkpoint of ours."""
    out: str = "model.onnx"
    """The file to write."""
    image: str = ""
    """The photograph to check with; empty: a scene of the built-in data set, made to fit."""
    size: tuple[int, int] | None = None
    """Height and width of the input, multiples of 32; without it: the long side both ways, so that all fit."""


class Graph(nn.Module):
    """RefineMask with what `predict` does around it, in operations of fixed output shapes."""

    def __init__(self, model: RefineMask):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """image [H, W, 3] uint8, size [2] int64 -> boxes [N, 4], scores [N], labels [N], soft masks [N, S, S]."""
        answers = self.model(self.model.normalise(image.permute(2, 0, 1)[None], size[None]))
        regions, real = self.propose(answers, size)
        found = self.detect(answers, regions, real, size)
        masks = probabilities(self.model.masks(answers.pyramid, found), found.labels)
        return found.boxes, found.scores, found.labels, masks

    def propose(self, answers: Answers, size: Tensor) -> tuple[Tensor, Tensor]:
        """A fixed number of proposals [n, 4], and which of them are any [n]."""
        test, boxes, scores, groups = self.model.config.test, [], [], []
        anchors = all_anchors(answers.objectness, self.model.config.model.anchor_scale)
        levels = zip(flat(answers.objectness, 1), flat(answers.deltas, 4), anchors, strict=True)
        for level, (logits, deltas, own) in enumerate(levels):
            best, order = logits[0, :, 0].sigmoid().topk(min(test.proposals_before_nms, len(own)))
            boxes.append(clip_to(decode(own[order], deltas[0, order], STDS), size))
            scores.append(best)
            groups.append(torch.full_like(order, level))
        every = torch.cat(boxes)
        kept = suppressed(every, torch.cat(scores), torch.cat(groups), test.proposal_nms)
        kept, order = kept.topk(min(test.proposals, len(kept)))
        return every[order], kept > 0

    def detect(self, answers: Answers, regions: Tensor, real: Tensor, size: Tensor) -> Detections:
        """A fixed number of objects, best first; those with score 0 are none."""
        test, settings = self.model.config.test, self.model.config.model
        logits = []
        for head, stds in zip(self.model.box_heads, settings.box_stds, strict=True):
            stage = answer(head, answers.pyramid, [regions], settings.finest_scale)
            logits.append(stage.logits)
            regions = clip_to(moved(stage, stage.logits[:, :-1].argmax(dim=1), stds), size)
        chances = torch.stack(logits).mean(dim=0).softmax(dim=1)[:, :-1]
        chances = torch.where(real[:, None], chances, 0.0)
        scores, index = chances.flatten().topk(min(CANDIDATES, chances.numel()))
        rows, labels = torch.div(index, chances.shape[1], rounding_mode="floor"), index % chances.shape[1]
        deltas = stage.deltas[rows, labels if stage.deltas.shape[1] > 1 else 0]
        boxes = clip_to(decode(stage.regions[rows, 1:], deltas, settings.box_stds[-1]), size)
        scores = torch.where(scores > test.score_threshold, scores, 0.0)
        scores = suppressed(boxes, scores, labels, test.nms)
        scores, order = scores.topk(min(test.max_instances, len(scores)))
        return Detections(boxes[order], boxes[order], scores, labels[order])


def clip_to(boxes: Tensor, size: Tensor) -> Tensor:
    """Boxes [n, 4] within a size [2] that is not known yet."""
    return torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2).to(boxes.dtype))


def suppressed(boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
    """The scores [n], 0 for those that NMS drops; groups are shifted apart, as ONNX knows no others."""
    kept = nms(boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None], scores, threshold)
    return torch.zeros_like(scores).index_copy(0, kept, scores[kept])


def main() -> None:
    options = tyro.cli(Export, prog="export.py")
    model = refinemask_psg.load(options.weights)
    if model.scene_graph is not None:
        raise UserError(f"{options.weights}: scene graphs are not exported; export a detector's checkpoint")
    graph = Graph(model).eval()
    side = round_up(model.config.test.long_side, DIVISOR)
    size = options.size or (side, side)
    if any(length % DIVISOR for length in size):
        raise UserError(f"--size {size[0]} {size[1]}: expected multiples of {DIVISOR}")
    inputs = padded(scaled(model, options.image, size), size)
    session = export_onnx(graph, inputs, Path(options.out), ("boxes", "scores", "labels", "masks"))
    check(graph, session, inputs)
    print(f"written: {Path(options.out).resolve()}")


def scaled(model: RefineMask, path: str, within: tuple[int, int]) -> NDArray[np.uint8]:
    """The photograph to check with, at the size that `predict` would scale it to; a built-in one is made to fit."""
    image = read_image(Path(path)) if path else read_image(sorted(shapes.ensure("val", count=4).images.iterdir())[0])
    test = model.config.test
    height, width = fit_within(image.shape[0], image.shape[1], test.long_side, test.short_side)
    shrink = 1.0 if path else min(1.0, within[0] / height, within[1] / width)
    return resize(image, int(height * shrink), int(width * shrink))


def padded(image: NDArray[np.uint8], size: tuple[int, int]) -> dict[str, Tensor]:
    """The graph's inputs."""
    height, width = image.shape[:2]
    if height > size[0] or width > size[1]:
        raise UserError(
            f"the photograph is {height} x {width} when scaled; it does not fit into --size {size[0]} {size[1]}"
        )
    padding = (0, 0, 0, size[1] - width, 0, size[0] - height)
    return {"image": F.pad(torch.from_numpy(image), padding), "size": torch.tensor([height, width])}


def check(graph: Graph, session: Any, inputs: dict[str, Tensor]) -> None:
    """Compare the file's objects with PyTorch's on a photograph."""
    height, width = inputs["size"].tolist()
    theirs = session.run(None, {name: value.numpy() for name, value in inputs.items()})

    def objects(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any]) -> Found:
        found = scores > 0
        return Found(scores[found], labels[found], masks[found], boxes[found] / max(height, width))

    @torch.inference_mode()
    def find(graph: Graph) -> Found:
        return objects(*(output.numpy() for output in graph(**inputs)))

    compare(find, graph, objects(*theirs), masks_apart, f"{width} x {height}")


def masks_apart(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).mean())


if __name__ == "__main__":
    commands.run(main)
