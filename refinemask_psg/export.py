"""Export RefineMask to ONNX: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already scaled, uint8 [H, W, 3] RGB, padded at the right and the bottom to the
size that it was exported for, and its `size` before padding. It holds everything up to each object's box, score,
class and fused soft mask, both NMS included, in the network input's pixels; it gives a fixed number of objects, best
first, and those with score 0 are none. Outside of it remain scaling the photograph, and pasting the masks into it
(`refinemask_psg.postprocess.paste`): the photograph's own size is not in the graph.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import refinemask_psg
from common.data.batches import round_up
from common.data.images import fit_within, resize
from common.errors import UserError
from common.results import Instances
from maskworks import command_line, exported, exporting
from maskworks.command_line import program
from maskworks.onnx_export import Found, check, fixed_count, found, padded, shrunk
from refinemask_psg.network import DIVISOR, RefineMask
from refinemask_psg.postprocess import paste, probabilities

OUTPUTS = ("boxes", "scores", "labels", "masks")


class Graph(nn.Module):
    """RefineMask with what `predict` does around it, and a fixed number of objects; all in the input's pixels.

    Boxes are compared there too: a photograph's own size, where some variants compare them, is not in the graph.
    """

    def __init__(self, model: RefineMask):
        super().__init__()
        self.model = model
        model.config.test = replace(model.config.test, nms_in="input")

    def forward(self, image: Tensor, size: Tensor) -> list[Tensor]:
        """image [H, W, 3] uint8, size [2] int64 -> boxes [N, 4], scores [N], labels [N], soft masks [N, S, S]."""
        answers = self.model(self.model.normalise(image.permute(2, 0, 1)[None], size[None]))
        found = self.model.detect(answers, 0, size, torch.ones(4, device=size.device))
        masks = probabilities(self.model.masks(answers.pyramid, found), found.labels)
        return fixed_count((found.boxes, found.scores, found.labels, masks), self.model.config.test.max_instances)


def main() -> None:
    options = command_line.read(exporting.ExportOfOneSize, "export.py")
    model = refinemask_psg.load(options.weights, device="cpu")
    if model.scene_graph is not None:
        raise UserError(f"{options.weights}: scene graphs are not exported; export a detector's checkpoint")
    if not len(model.mask_heads):
        raise UserError(f"{options.weights}: has no mask head, and what is exported ends in masks; export another")
    side = round_up(model.config.test.long_side, DIVISOR)
    size = options.size or (side, side)
    photograph = fitted(model, exporting.photograph(options.image), None if options.image else size)
    inputs = padded(torch.from_numpy(photograph), size, DIVISOR)
    words = exported.words("refinemask_psg", model.config, model.class_names, model.category_ids, size)
    graph = Graph(model).eval()
    session = exporting.write(graph, inputs, options, OUTPUTS, words)

    def read(boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any]) -> Found:
        return found(scores, labels, masks, boxes / max(photograph.shape))

    title = f"{photograph.shape[1]} x {photograph.shape[0]}"
    check(graph, session, inputs, read, masks_apart, title, options.precision)
    exporting.finish(session, options)


def fitted(model: RefineMask, image: NDArray[np.uint8], within: Sequence[int] | None) -> NDArray[np.uint8]:
    """A photograph at the size that `predict` scales it to; smaller, if need be, to fit."""
    size = fit_within(image.shape[0], image.shape[1], model.config.test.long_side, model.config.test.short_side)
    return resize(image, *(shrunk(size, within) if within else size))


def graph_inputs(
    model: RefineMask, picture: NDArray[np.uint8], size: list[int]
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """A photograph as the graph takes it, and its size before padding."""
    image = fitted(model, picture, size)
    return padded(torch.from_numpy(image), (size[0], size[1]), DIVISOR), (image.shape[0], image.shape[1])


def result(
    model: RefineMask, outputs: dict[str, Tensor], resized: tuple[int, int], original: tuple[int, int]
) -> Instances:
    """The graph's answer in the photograph's own pixels."""
    boxes, scores, labels, soft = (outputs[name][outputs["scores"] > 0] for name in OUTPUTS)
    boxes = boxes * torch.tensor([original[1] / resized[1], original[0] / resized[0]] * 2)
    masks = paste(soft, boxes, original, model.config.test)
    return Instances(scores, labels, boxes, masks, original, model.class_names)


def masks_apart(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    return float(np.abs(ours - theirs).mean())


if __name__ == "__main__":
    program.run(main)
