"""Export SOLOv2 to ONNX, post-processing included: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already scaled, uint8 RGB, padded at the right and the bottom to multiples of 32
in any number, and its `size` before padding. It gives a fixed number of instances, best first; those with score 0 are
none.
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
from torch.export import Dim

import solov2
from common.data.batches import normalise
from common.data.images import fit_within, read_image, resize
from common.ops import matrix_nms_from_intersections
from common.run import commands
from common.run.onnx_export import Found, compare, export_onnx, outside_both
from maskworks import shapes
from solov2.network import DIVISOR, SOLOv2

FEWEST_BLOCKS = 3  # of 32 pixels along a side: with fewer, a level of the pyramid would be a single pixel
CELLS = 1000  # (cell, category) pairs that get a mask; the thresholds leave fewer on photographs


@dataclass
class Export:
    """Write the network and its post-processing as one ONNX file, and check it against PyTorch."""

    weights: str
    """A checkpoint of ours."""
    out: str = "model.onnx"
    """The file to write."""
    image: str = ""
    """The photograph to check with; empty: a scene of the built-in data set."""


class Graph(nn.Module):
    """SOLOv2 with what `predict` does around it, in operations of fixed output shapes."""

    def __init__(self, model: SOLOv2):
        super().__init__()
        self.model = model
        config = model.config.model
        strides = [
            torch.full((grid * grid,), stride) for grid, stride in zip(config.grids, config.strides, strict=True)
        ]
        self.strides: Tensor
        self.register_buffer("strides", torch.cat(strides))

    def forward(self, image: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """image [H/32, 32, W/32, 32, 3] uint8, size [2] int64 -> scores [N], labels [N], masks [N, H, W] bool.

        An image's bytes are the same as [H, W, 3]; written so, its sides are free and yet multiples of 32.
        """
        image = image.reshape(DIVISOR * image.shape[0], DIVISOR * image.shape[2], 3)
        test, network = self.model.config.test, self.model.config.model
        answers = self.model(normalise(image.permute(2, 0, 1)[None], size[None], network.mean, network.std))
        feature = answers.mask_feature[0]
        logits = torch.cat([points_nms_on_logits(level[0]).flatten(1) for level in answers.category_logits], dim=1).T
        kernels = torch.cat([level[0].flatten(1) for level in answers.kernels], dim=1).T  # [cells, c]
        classes = logits.shape[1]
        best, index = logits.flatten().topk(min(CELLS, logits.numel()))
        cells, labels = torch.div(index, classes, rounding_mode="floor"), index % classes
        soft = (kernels[cells] @ feature.flatten(1)).sigmoid()  # [K, H/4 * W/4]
        binary = (soft > test.mask_threshold).float()
        areas = binary.sum(dim=1)
        scores = best.sigmoid()
        wanted = (scores > test.score_threshold) & (areas > self.strides[cells])
        scores = torch.where(wanted, scores * (soft * binary).sum(dim=1) / areas.clamp(min=1), 0.0)
        scores, order = scores.topk(min(test.max_candidates, scores.shape[0]))
        labels, soft, binary, areas = labels[order], soft[order], binary[order], areas[order]
        scores = matrix_nms_from_intersections(binary @ binary.T, areas, labels, scores, test.kernel, test.sigma)
        scores = torch.where(scores >= test.update_threshold, scores, 0.0)
        scores, order = scores.topk(min(test.max_instances, scores.shape[0]))
        soft = soft[order].reshape(-1, 1, feature.shape[1], feature.shape[2])
        large = F.interpolate(soft, (image.shape[0], image.shape[1]), mode="bilinear", align_corners=False)
        rows = torch.arange(image.shape[0], device=image.device) < size[0]
        columns = torch.arange(image.shape[1], device=image.device) < size[1]
        masks = (large[:, 0] > test.mask_threshold) & rows[:, None] & columns
        return scores, labels[order], masks


def points_nms_on_logits(logits: Tensor) -> Tensor:
    """Points NMS [C, S, S] before the sigmoid: the same, but onnxruntime's approximate sigmoid makes ties."""
    largest = F.max_pool2d(logits[None], kernel_size=2, stride=1, padding=1)[0, :, :-1, :-1]
    return torch.where(logits == largest, logits, -100.0)


def main() -> None:
    options = tyro.cli(Export, prog="export.py")
    model = solov2.load(options.weights)
    graph = Graph(model).eval()
    photograph = scaled(model, options.image)
    outputs = ("scores", "labels", "masks")
    sides = {0: Dim("rows", min=FEWEST_BLOCKS), 2: Dim("columns", min=FEWEST_BLOCKS)}
    session = export_onnx(graph, padded(photograph), Path(options.out), outputs, {"image": sides, "size": None})
    small = resize(photograph, photograph.shape[0] // 2, photograph.shape[1] // 2)
    for image in (photograph, small, photograph.transpose(1, 0, 2)):
        check(graph, session, image)
    print(f"written: {Path(options.out).resolve()}")


def padded(image: NDArray[np.uint8]) -> dict[str, Tensor]:
    """The graph's inputs."""
    height, width = image.shape[:2]
    rows, columns = (max(-(-side // DIVISOR), FEWEST_BLOCKS) for side in (height, width))
    padding = (0, 0, 0, columns * DIVISOR - width, 0, rows * DIVISOR - height)
    pixels = F.pad(torch.from_numpy(np.ascontiguousarray(image)), padding)
    return {"image": pixels.reshape(rows, DIVISOR, columns, DIVISOR, 3), "size": torch.tensor([height, width])}


def check(graph: Graph, session: Any, image: NDArray[np.uint8]) -> None:
    """Compare the file's instances with PyTorch's on an image."""
    inputs = padded(image)
    theirs = session.run(None, {name: value.numpy() for name, value in inputs.items()})

    @torch.inference_mode()
    def find(graph: Graph) -> Found:
        return instances(*(output.numpy() for output in graph(**inputs)))

    compare(find, graph, instances(*theirs), outside_both, f"{image.shape[1]} x {image.shape[0]}")


def instances(scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any]) -> Found:
    found = scores > 0
    return Found(scores[found], labels[found], masks[found])


def scaled(model: SOLOv2, path: str) -> NDArray[np.uint8]:
    """The photograph to check with, at the size that `predict` would scale it to."""
    image = read_image(Path(path)) if path else read_image(sorted(shapes.ensure("val", count=4).images.iterdir())[0])
    height, width = fit_within(
        image.shape[0], image.shape[1], model.config.test.long_side, model.config.test.short_side
    )
    return resize(image, height, width)


if __name__ == "__main__":
    commands.run(main)
