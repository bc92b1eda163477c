"""Export YOLACT to ONNX, post-processing included: python export.py --weights FILE --out model.onnx.

The graph takes a photograph of any size, uint8 [H, W, 3] RGB, and gives a fixed number of instances at its size, best
first; those with score 0 are none.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import yolact
from common.data.images import resize
from common.errors import UserError
from common.results import Instances
from maskworks import command_line, exported, exporting
from maskworks.command_line import program
from maskworks.onnx_export import Found, compare, fixed_count, outside_both
from yolact.backbone import DeformableConv2d
from yolact.boxes import crop_frames
from yolact.network import YOLACT, stretched
from yolact.postprocess import boxes_in_pixels, detect

OUTPUTS = ("scores", "labels", "boxes", "masks")


class Graph(nn.Module):
    """YOLACT with what `predict` does around it, and a fixed number of instances.

    Not `preprocess`, as resizing in bytes is OpenCV's, and not `postprocess.enlarge`, which goes from window to window.
    """

    def __init__(self, model: YOLACT):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """image [H, W, 3] uint8 -> scores [N], labels [N], boxes [N, 4], masks [N, H, W] bool; ++: mask scores [N]."""
        config, size = self.model.config, (image.shape[0], image.shape[1])
        square = stretched(image, config.model.input_size)
        answers = self.model(self.model.normalised(square.round() if config.test.resize == "bytes" else square))
        found = detect(answers.class_logits[0], answers.deltas[0], answers.coefficients[0], self.model.priors, config)
        most = config.test.max_instances if config.test.nms == "fast" else config.test.top_k
        boxes, scores, labels, coefficients = fixed_count(found, most)
        prototypes = answers.prototypes[0]
        height, width, _ = prototypes.shape
        logits = (coefficients @ prototypes.flatten(0, 1).T).view(-1, height, width)
        # soft masks less a half: with tanh a logit of 0 gives exactly the threshold, which sigmoids only approximate
        inside = crop_frames(boxes, height, width)
        centred = torch.where(inside, 0.5 * (0.5 * logits).tanh(), -0.5)
        masks = F.interpolate(centred[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
        outputs = (scores, labels, boxes_in_pixels(boxes, size, config.test.whole_pixels), masks)
        if self.model.mask_iou is None:
            return outputs
        predicted = self.model.mask_iou((centred + 0.5)[:, None]).gather(1, labels[:, None]).squeeze(1)
        return (*outputs, scores * predicted)


class GridDeformableConv2d(nn.Module):
    """A deformable convolution of operations that ONNX has: each tap samples by a grid, then one matrix for all."""

    def __init__(self, original: DeformableConv2d):
        super().__init__()
        self.offset, self.stride = original.offset, original.stride
        self.weight, self.bias = nn.Parameter(original.weight.detach().flatten(2)), original.bias  # [out, in, 9]

    def forward(self, features: Tensor) -> Tensor:
        offsets, modulation = self.offset(features).split((18, 9), dim=1)
        modulation = modulation.sigmoid()
        height, width = features.shape[2:]
        rows = torch.arange(offsets.shape[2]).float()[:, None] * self.stride - 1
        columns = torch.arange(offsets.shape[3]).float() * self.stride - 1
        total = self.bias[:, None, None]
        for tap in range(9):
            y = offsets[:, 2 * tap] + rows + tap // 3
            x = offsets[:, 2 * tap + 1] + columns + tap % 3
            grid = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
            sampled = F.grid_sample(features, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            total = total + F.conv2d(sampled * modulation[:, tap : tap + 1], self.weight[:, :, tap, None, None])
        return total


def main() -> None:
    options = command_line.read(exporting.ExportOfPictures, "export.py")
    model = yolact.load(options.weights, device="cpu")
    if model.config.test.nms == "traditional":  # in double precision, which ONNX's has not
        raise UserError(f"{options.weights}: its test.nms is traditional, which cannot be exported")
    photograph = exporting.photograph(options.image)
    session = export(model, photograph, options)
    for image in (photograph, resize(photograph, photograph.shape[0] // 2 + 1, photograph.shape[1])):
        check(model, session, image, options.precision)
    exporting.finish(session, options)


def export(model: YOLACT, photograph: NDArray[np.uint8], options: exporting.Export) -> Any:
    """Write the file, for photographs of any size; the model is changed for it."""
    for block in model.modules():
        if isinstance(conv := getattr(block, "conv2", None), DeformableConv2d):
            block.conv2 = GridDeformableConv2d(conv)
    dynamic = {"image": {0: torch.export.Dim("height", min=2), 1: torch.export.Dim("width", min=2)}}
    names = OUTPUTS if model.mask_iou is None else (*OUTPUTS, "mask_scores")
    inputs = {"image": torch.from_numpy(photograph)}
    words = exported.words("yolact", model.config, model.class_names, model.category_ids)
    return exporting.write(Graph(model).eval(), inputs, options, names, words, dynamic)


def graph_inputs(
    _: YOLACT, picture: NDArray[np.uint8], size: list[int] | None
) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """A photograph as the graph takes it, and its size there."""
    return {"image": torch.from_numpy(picture)}, (picture.shape[0], picture.shape[1])


def result(model: YOLACT, outputs: dict[str, Tensor], _: tuple[int, int], original: tuple[int, int]) -> Instances:
    """The graph's answer, without what only fills it up."""
    some, boxes = outputs["scores"] > 0, outputs["boxes"]
    if model.config.test.drop_empty_boxes:
        some &= (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    scores, labels, boxes, masks = (outputs[name][some] for name in OUTPUTS)
    rescored = outputs["mask_scores"][some] if "mask_scores" in outputs else None
    return Instances(scores, labels, boxes, masks, original, model.class_names, mask_scores=rescored)


def check(model: YOLACT, session: Any, image: NDArray[np.uint8], precision: str = "fp32") -> None:
    """Compare the file's instances with what `predict` finds in an image."""
    model.config.test.drop_empty_boxes = False
    height, width = image.shape[:2]
    parts = np.array([width, height, width, height])
    scores, labels, boxes, masks, *rescored = session.run(None, {"image": image})
    some = scores > 0

    def find(model: YOLACT) -> Found:
        result = model.predict([image])[0]
        assert result.masks is not None
        scores = result.scores if result.mask_scores is None else result.mask_scores
        return Found(scores.numpy(), result.labels.numpy(), result.masks.numpy(), result.boxes.numpy() / parts)

    theirs = Found((rescored[0] if rescored else scores)[some], labels[some], masks[some], boxes[some] / parts)
    compare(find, model, theirs, outside_both, f"{width} x {height}", precision)


if __name__ == "__main__":
    program.run(main)
