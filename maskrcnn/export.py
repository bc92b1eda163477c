"""Export Mask R-CNN to ONNX: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already scaled, uint8 [H, W, 3] RGB, padded at the right and the bottom to the
size that it was exported for, and its `size` before padding. It holds everything up to each object's box, score,
class and soft mask at the head's resolution, both NMS included; it gives a fixed number of objects, best first, and
those with score 0 are none. Outside of it remain scaling the photograph, and pasting the masks into it
(`maskrcnn.pasting.paste`): the photograph's own size is not in the graph.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import maskrcnn
from common.data.batches import Prepared, round_up
from common.errors import UserError
from common.results import Instances
from maskrcnn.network import MaskRCNN
from maskrcnn.postprocess import Detections, instances
from maskrcnn.preprocessing import normalised, scaled, scaled_size
from maskworks import command_line, exported, exporting
from maskworks.command_line import program
from maskworks.onnx_export import Found, check, fixed_count, found, padded, shrunk

OUTPUTS = ("boxes", "scores", "labels", "masks")


class Graph(nn.Module):
    """Mask R-CNN with what `predict` does around it, and a fixed number of objects.

    ONNX's NMS knows no groups, so their boxes are shifted apart, as MMDetection does.
    """

    def __init__(self, model: MaskRCNN):
        super().__init__()
        self.model = model
        model.config.conventions = replace(model.config.conventions, nms="mmdetection")

    def forward(self, image: Tensor, size: Tensor) -> list[Tensor]:
        """image [H, W, 3] uint8, size [2] int64 -> boxes [N, 4], scores [N], labels [N], soft masks [N, m, m]."""
        config = self.model.config
        tensor = normalised(image.permute(2, 0, 1)[None], size[None], config.model, config.conventions)
        answers = self.model(tensor)
        found = self.model.detect(answers, size[None])
        soft_masks = self.model.soft_masks(answers.features, found)
        return fixed_count((*found, soft_masks), config.test.max_instances)


def main() -> None:
    options = command_line.read(exporting.ExportOfOneSize, "export.py")
    model = maskrcnn.load(options.weights, device="cpu")
    refuse_what_cannot_be_exported(model)
    side = round_up(model.config.test.long_side, 32)
    size = options.size or (side, side)
    photograph = fitted(model, exporting.photograph(options.image), None if options.image else size)
    inputs = padded(photograph, size, 32)
    words = exported.words("maskrcnn", model.config, model.class_names, model.category_ids, size)
    graph = Graph(model).eval()
    session = exporting.write(graph, inputs, options, OUTPUTS, words)

    def read(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any]) -> Found:
        return found(scores, labels, masks, boxes / max(photograph.shape))

    title = f"{photograph.shape[1]} x {photograph.shape[0]}"
    check(graph, session, inputs, read, masks_apart, title, options.precision)
    exporting.finish(session, options)


def refuse_what_cannot_be_exported(model: MaskRCNN) -> None:
    settings = model.config.proposals
    if not model.config.model.masks:
        raise UserError("a model without masks (--model.no-masks) cannot be exported: the file is to hold masks")
    if settings.after_nms < min(settings.before_nms, settings.kept):
        raise UserError(
            f"proposals.after_nms {settings.after_nms} is less than proposals.kept {settings.kept}: "
            "the exported graph caps proposals only once, by kept"
        )


def fitted(model: MaskRCNN, image: NDArray[np.uint8], within: Sequence[int] | None) -> Tensor:
    """A photograph [H, W, 3], in bytes, at the size that `predict` scales it to; smaller, if need be, to fit."""
    test, conventions = model.config.test, model.config.conventions
    size = scaled_size((image.shape[0], image.shape[1]), test.long_side, test.short_side, conventions)
    size = shrunk(size, within) if within else size
    return scaled(image, size, conventions).round().to(torch.uint8).permute(1, 2, 0)


def graph_inputs(
    model: MaskRCNN, picture: NDArray[np.uint8], size: list[int]
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """A photograph as the graph takes it, and its size before padding."""
    image = fitted(model, picture, size)
    return padded(image, (size[0], size[1]), 32), (image.shape[0], image.shape[1])


def result(
    model: MaskRCNN, outputs: dict[str, Tensor], resized: tuple[int, int], original: tuple[int, int]
) -> Instances:
    """The graph's answer in the photograph's own pixels."""
    boxes, scores, labels, masks = (outputs[name][outputs["scores"] > 0] for name in OUTPUTS)
    prepared = Prepared(torch.empty(0), original, resized)
    found, config = Detections(boxes, scores, labels), model.config
    return instances(found, masks, prepared, config.test, config.conventions, model.class_names)


def masks_apart(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).max())


if __name__ == "__main__":
    program.run(main)
