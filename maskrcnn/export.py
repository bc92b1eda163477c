"""Export Mask R-CNN to ONNX: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already scaled, uint8 [H, W, 3] RGB, padded at the right and the bottom to the
size that it was exported for, and its `size` before padding. It holds everything up to each object's box, score,
class and soft mask at the head's resolution, both NMS included; it gives a fixed number of objects, best first, and
those with score 0 are none. Outside of it remain scaling the photograph, and pasting the masks into it
(`maskrcnn.pasting.paste`): the photograph's own size is not in the graph.
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

import maskrcnn
from common.data.batches import round_up
from common.data.images import read_image
from common.errors import UserError
from common.run import commands
from common.run.onnx_export import Found, compare, export_onnx
from maskrcnn.boxes import clip, decode, sides
from maskrcnn.network import Answers, MaskRCNN
from maskrcnn.postprocess import Detections
from maskrcnn.preprocessing import normalised, scaled, scaled_size
from maskrcnn.proposals import best_of_level
from maskworks import shapes

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
    """Mask R-CNN with what `predict` does around it, in operations of fixed output shapes."""

    def __init__(self, model: MaskRCNN):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """image [H, W, 3] uint8, size [2] int64 -> boxes [N, 4], scores [N], labels [N], soft masks [N, m, m]."""
        config = self.model.config
        tensor = normalised(image.permute(2, 0, 1)[None], size[None], config.model, config.conventions)
        answers = self.model(tensor)
        regions, real = self.propose(answers, size)
        found = self.detect(answers, regions, real, size)
        boxes = found.boxes.float()
        return boxes, found.scores, found.labels, self.model.soft_masks(answers.features, found)

    def propose(self, answers: Answers, size: Tensor) -> tuple[Tensor, Tensor]:
        """A fixed number of proposals [n, 4], and which of them are any [n]."""
        settings, conventions = self.model.config.proposals, self.model.config.conventions
        levels = [
            best_of_level(*level, size[None], settings.before_nms, conventions)
            for level in zip(answers.logits, answers.deltas, answers.anchors, strict=True)
        ]
        boxes = torch.cat([level.boxes[0] for level in levels])
        scores = torch.cat([level.scores[0] for level in levels])
        groups = torch.cat([torch.full_like(level.scores[0], number) for number, level in enumerate(levels)])
        large = (sides(boxes, conventions.inclusive_corners) >= settings.smallest).all(dim=1)
        scores = self.suppressed(boxes, torch.where(large, scores, 0.0), groups, settings.nms_threshold)
        scores, order = scores.topk(min(settings.kept, len(scores)))
        return boxes[order], scores > 0

    def detect(self, answers: Answers, regions: Tensor, real: Tensor, size: Tensor) -> Detections:
        """A fixed number of objects, best first; those with score 0 are none."""
        config, conventions = self.model.config, self.model.config.conventions
        logits, deltas = self.model.box_head(self.model.box_regions(answers.features, [regions]))
        probabilities, first = logits.softmax(dim=1), int(conventions.background_first)
        probabilities = probabilities[:, 1:] if first else probabilities[:, :-1]
        probabilities = torch.where(real[:, None], probabilities, 0.0)
        classes = probabilities.shape[1]
        scores, index = probabilities.flatten().topk(min(CANDIDATES, probabilities.numel()))
        rows, labels = torch.div(index, classes, rounding_mode="floor"), index % classes
        chosen, inclusive = deltas[rows, labels + first], conventions.inclusive_corners
        boxes = decode(chosen, regions[rows], config.regions.delta_weights, inclusive, conventions.limit_shrinking)
        boxes = clip(boxes, size, inclusive)
        wanted = scores > config.test.score_threshold
        wanted &= (sides(boxes, inclusive) >= conventions.smallest_detection).all(dim=1)
        scores = self.suppressed(boxes, torch.where(wanted, scores, 0.0), labels, config.test.nms_threshold)
        scores, order = scores.topk(min(config.test.max_instances, len(scores)))
        scores = torch.where(labels[order] < classes - config.model.spare_outputs, scores, 0.0)
        return Detections(boxes[order], scores, labels[order])

    def suppressed(self, boxes: Tensor, scores: Tensor, groups: Tensor, threshold: float) -> Tensor:
        """The scores [n], 0 for those that NMS drops; groups are shifted apart, as ONNX knows no others."""
        end = boxes.new_tensor([0, 0, 1, 1]) if self.model.config.conventions.inclusive_corners else 0
        apart = boxes + end + (groups.to(boxes) * (boxes.max() + 2))[:, None]
        kept = nms(apart, scores, threshold)
        return torch.zeros_like(scores).index_copy(0, kept, scores[kept])


def main() -> None:
    options = tyro.cli(Export, prog="export.py")
    model = maskrcnn.load(options.weights)
    refuse_what_cannot_be_exported(model)
    graph = Graph(model).eval()
    side = round_up(model.config.test.long_side, 32)
    size = options.size or (side, side)
    if any(length % 32 for length in size):
        raise UserError(f"--size {size[0]} {size[1]}: expected multiples of 32")
    inputs = padded(photograph_to_check(model, options.image, size), size)
    session = export_onnx(graph, inputs, Path(options.out), ("boxes", "scores", "labels", "masks"))
    check(graph, session, inputs)
    print(f"written: {Path(options.out).resolve()}")


def refuse_what_cannot_be_exported(model: MaskRCNN) -> None:
    settings = model.config.proposals
    if not model.config.model.masks:
        raise UserError("a model without masks (--model.no-masks) cannot be exported: the file is to hold masks")
    if settings.after_nms < min(settings.before_nms, settings.kept):
        raise UserError(
            f"proposals.after_nms {settings.after_nms} is less than proposals.kept {settings.kept}: "
            "the exported graph caps proposals only once, by kept"
        )


def photograph_to_check(model: MaskRCNN, path: str, within: tuple[int, int]) -> Tensor:
    """The photograph [H, W, 3], in bytes, at the size that `predict` scales it to; a built-in one is made to fit."""
    image = read_image(Path(path)) if path else read_image(sorted(shapes.ensure("val", count=4).images.iterdir())[0])
    test, conventions = model.config.test, model.config.conventions
    size = scaled_size((image.shape[0], image.shape[1]), test.long_side, test.short_side, conventions)
    if not path:
        shrink = min(1.0, within[0] / size[0], within[1] / size[1])
        size = (int(size[0] * shrink), int(size[1] * shrink))
    return scaled(image, size, conventions).round().to(torch.uint8).permute(1, 2, 0)


def padded(image: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """The graph's inputs."""
    height, width = image.shape[:2]
    if height > size[0] or width > size[1]:
        raise UserError(
            f"the photograph is {height} x {width} when scaled; it does not fit into --size {size[0]} {size[1]}"
        )
    padding = (0, 0, 0, size[1] - width, 0, size[0] - height)
    return {"image": F.pad(image, padding), "size": torch.tensor([height, width])}


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
    return float(np.abs(ours - theirs).max())


if __name__ == "__main__":
    commands.run(main)
