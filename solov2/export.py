"""Export SOLOv2 to ONNX, post-processing included: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already scaled, uint8 RGB, padded at the right and the bottom to multiples of 32
in any number, and its `size` before padding. It gives a fixed number of instances, best first; those with score 0 are
none. `soft_masks` are probabilities at a quarter of that size, for who enlarges them to the photograph's own.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim

import solov2
from common.data.images import resize
from common.ops import matrix_nms_from_intersections
from common.results import Instances
from maskworks import command_line, exported, exporting
from maskworks.command_line import program
from maskworks.onnx_export import Found, check, fixed_count, found, outside_both
from solov2.network import DIVISOR, SOLOv2
from solov2.postprocess import Candidates, boxes_around, candidates, photograph_masks, select

FEWEST_BLOCKS = 3  # of 32 pixels along a side: with fewer, a level of the pyramid would be a single pixel


class Graph(nn.Module):
    """SOLOv2 with what `predict` does around it, and a fixed number of instances.

    Not `postprocess.enlarge`, which computes only a window of each mask and needs to know the photograph's size.
    """

    def __init__(self, model: SOLOv2):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """image [H/32, 32, W/32, 32, 3] uint8, size [2] int64 -> scores [N], labels [N], masks [N, H, W] bool, soft.

        An image's bytes are the same as [H, W, 3]; written so, its sides are free and yet multiples of 32.
        """
        image = image.reshape(DIVISOR * image.shape[0], DIVISOR * image.shape[2], 3)
        test, network = self.model.config.test, self.model.config.model
        answers = self.model(self.model.normalise(image.permute(2, 0, 1)[None], size[None]))
        category_logits, kernels = ([level[0] for level in levels] for levels in answers[:2])
        some = candidates(category_logits, kernels, answers.mask_feature[0], network.strides, test)
        best = Candidates(*fixed_count(some, test.max_candidates))  # never none
        pixels = best.masks.flatten(1).float()  # matrix_nms itself looks at one class after the other
        intersections, areas = pixels @ pixels.T, pixels.sum(dim=1)
        decayed = matrix_nms_from_intersections(intersections, areas, best.labels, best.scores, test.kernel, test.sigma)
        scores, labels, soft = fixed_count(select(best, decayed, test), test.max_instances)
        large = F.interpolate(soft[:, None], (image.shape[0], image.shape[1]), mode="bilinear", align_corners=False)
        rows = torch.arange(image.shape[0], device=image.device) < size[0]
        columns = torch.arange(image.shape[1], device=image.device) < size[1]
        return scores, labels, (large[:, 0] > test.mask_threshold) & rows[:, None] & columns, soft


def main() -> None:
    options = command_line.read(exporting.ExportOfPictures, "export.py")
    model = solov2.load(options.weights, device="cpu")
    graph = Graph(model).eval()
    photograph = model.scaled(exporting.photograph(options.image))  # as large as `predict` would make it
    outputs = ("scores", "labels", "masks", "soft_masks")
    words = exported.words("solov2", model.config, model.class_names, model.category_ids)
    sides = {0: Dim("rows", min=FEWEST_BLOCKS), 2: Dim("columns", min=FEWEST_BLOCKS)}
    dynamic = {"image": sides, "size": None}
    session = exporting.write(graph, padded(photograph), options, outputs, words, dynamic)
    small = resize(photograph, photograph.shape[0] // 2, photograph.shape[1] // 2)
    for image in (photograph, small, photograph.transpose(1, 0, 2)):
        title = f"{image.shape[1]} x {image.shape[0]}"
        check(graph, session, padded(image), read, outside_both, title, options.precision)
    exporting.finish(session, options)


def read(scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any], _: NDArray[Any]) -> Found:
    return found(scores, labels, masks)


def graph_inputs(
    model: SOLOv2, picture: NDArray[np.uint8], _: list[int] | None
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """A photograph as the graph takes it, and its size before padding."""
    image = model.scaled(picture)
    return padded(image), (image.shape[0], image.shape[1])


def result(model: SOLOv2, outputs: dict[str, Tensor], resized: tuple[int, int], original: tuple[int, int]) -> Instances:
    """The graph's answer in the photograph's own pixels."""
    some = outputs["scores"] > 0
    masks = photograph_masks(outputs["soft_masks"][some], resized, original, model.config.test)
    scores, labels = outputs["scores"][some], outputs["labels"][some]
    return Instances(scores, labels, boxes_around(masks), masks, original, model.class_names)


def padded(image: NDArray[np.uint8]) -> dict[str, Tensor]:
    """The graph's inputs."""
    height, width = image.shape[:2]
    rows, columns = (max(-(-side // DIVISOR), FEWEST_BLOCKS) for side in (height, width))
    padding = (0, 0, 0, columns * DIVISOR - width, 0, rows * DIVISOR - height)
    pixels = F.pad(torch.from_numpy(np.ascontiguousarray(image)), padding)
    return {"image": pixels.reshape(rows, DIVISOR, columns, DIVISOR, 3), "size": torch.tensor([height, width])}


if __name__ == "__main__":
    program.run(main)
