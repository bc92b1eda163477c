"""Export YOLACT to ONNX, post-processing included: python export.py --weights FILE --out model.onnx.

The graph takes a photograph of any size, uint8 [H, W, 3] RGB, and gives a fixed number of instances at its size, best
first; those with score 0 are none. Fast NMS, or what --test.nms of the checkpoint's configuration says of it.
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

import yolact
from common.data.images import read_image, resize
from common.errors import UserError
from common.run import commands
from common.run.onnx_export import export_onnx, mask_agreement
from maskworks import shapes
from yolact.backbone import DeformableConv2d
from yolact.boxes import crop_frames, decode, priors_per_level
from yolact.network import YOLACT
from yolact.nms import beaten
from yolact.postprocess import LARGEST_STRETCH, best_of_each_level, boxes_in_pixels

SMALLEST_IOU = 0.99
OUTPUTS = ("scores", "labels", "boxes", "masks")


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
    """YOLACT with what `predict` does around it, in operations of fixed output shapes."""

    def __init__(self, model: YOLACT):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """image [H, W, 3] uint8 -> scores [N], labels [N], boxes [N, 4], masks [N, H, W] bool; ++: mask scores [N]."""
        test, size = self.model.config.test, (image.shape[0], image.shape[1])
        answers = self.model(self.prepared(image))
        scores, labels, boxes, coefficients = self.detect(
            answers.class_logits[0], answers.deltas[0], answers.coefficients[0]
        )
        prototypes = answers.prototypes[0]
        height, width, _ = prototypes.shape
        logits = (coefficients @ prototypes.flatten(0, 1).T).view(-1, height, width)
        # soft masks less a half: with tanh a logit of 0 gives exactly the threshold, which sigmoids only approximate
        inside = crop_frames(boxes, height, width)
        centred = torch.where(inside, 0.5 * (0.5 * logits).tanh(), -0.5)
        masks = F.interpolate(centred[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0
        outputs = (scores, labels, boxes_in_pixels(boxes, size, test.whole_pixels), masks)
        if self.model.mask_iou is None:
            return outputs
        predicted = self.model.mask_iou((centred + 0.5)[:, None]).gather(1, labels[:, None]).squeeze(1)
        return (*outputs, scores * predicted)

    def prepared(self, image: Tensor) -> Tensor:
        """What `preprocess` does: stretched to the network's size, normalised."""
        settings = self.model.config.model
        whole = image.permute(2, 0, 1)[None].float()
        square = F.interpolate(whole, (settings.input_size, settings.input_size), mode="bilinear", align_corners=False)
        if self.model.config.test.resize == "bytes":
            square = square.round()
        mean, std = (
            image.new_tensor(settings.mean, dtype=torch.float32),
            image.new_tensor(settings.std, dtype=torch.float32),
        )
        return (square - mean[:, None, None]) / std[:, None, None]

    def detect(self, class_logits: Tensor, deltas: Tensor, coefficients: Tensor) -> tuple[Tensor, ...]:
        """Fast NMS over all priors; the scores of those that don't take part are 0."""
        model, test = self.model, self.model.config.test
        scores = class_logits.softmax(dim=1)[:, 1:]
        boxes = decode(deltas, model.priors, LARGEST_STRETCH if test.clip_boxes else None)
        boxes = boxes.clamp(0, 1) if test.clip_boxes else boxes
        if test.level_candidates:
            counts = priors_per_level(model.config.model)
            chosen = best_of_each_level(scores.amax(dim=1), counts, test.level_candidates)
            scores, boxes, coefficients = scores[chosen], boxes[chosen], coefficients[chosen]
        else:
            scores = torch.where(scores.amax(dim=1, keepdim=True) > test.score_threshold, scores, 0.0)
        kept, order = scores.T.topk(min(test.top_k, len(scores)), dim=1)  # [C, k]
        kept = torch.where(beaten(boxes[order], test.iou_threshold), 0.0, kept)
        if test.threshold_after_nms:
            kept = torch.where(kept > test.score_threshold, kept, 0.0)
        best, index = kept.flatten().topk(min(test.max_instances, kept.numel()))
        labels = torch.div(index, kept.shape[1], rounding_mode="floor")
        priors = order.flatten()[index]
        return best, labels, boxes[priors], coefficients[priors]


class GridDeformableConv2d(nn.Module):
    """A deformable convolution of operations that ONNX has: each tap samples by a grid, then one matrix for all."""

    def __init__(self, original: DeformableConv2d):
        super().__init__()
        self.offset, self.stride = original.offset, original.stride
        self.weight, self.bias = original.weight.flatten(2), original.bias  # [out, in, 9]

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
    options = tyro.cli(Export, prog="export.py")
    model = yolact.load(options.weights)
    if model.config.test.nms != "fast":
        raise UserError(f"{options.weights}: its test.nms is {model.config.test.nms}; only fast NMS can be exported")
    photograph = read_image(Path(options.image)) if options.image else scene()
    session = export(model, photograph, Path(options.out))
    for image in (photograph, resize(photograph, photograph.shape[0] // 2 + 1, photograph.shape[1])):
        check(model, session, image)
    print(f"written: {Path(options.out).resolve()}")


def export(model: YOLACT, photograph: NDArray[np.uint8], out: Path) -> Any:
    """Write the file, for photographs of any size; the model is changed for it."""
    for block in model.modules():
        if isinstance(conv := getattr(block, "conv2", None), DeformableConv2d):
            block.conv2 = GridDeformableConv2d(conv)
    dynamic = {"image": {0: torch.export.Dim("height", min=2), 1: torch.export.Dim("width", min=2)}}
    names = OUTPUTS if model.mask_iou is None else (*OUTPUTS, "mask_scores")
    inputs = {"image": torch.from_numpy(photograph)}
    return export_onnx(Graph(model).eval(), inputs, out, names, dynamic_shapes=dynamic)


def check(model: YOLACT, session: Any, image: NDArray[np.uint8]) -> None:
    """Compare the file's instances with PyTorch's on an image: each must be there, in the same order."""
    model.config.test.drop_empty_boxes = False
    ours = model.predict([image])[0]
    scores, labels, _, masks, *_ = session.run(None, {"image": image})
    count = len(ours)
    assert ours.masks is not None
    lowest = float(mask_agreement(ours.masks.numpy(), masks[:count]).min()) if count else 1.0
    labels_agree = bool((ours.labels.numpy() == labels[:count]).all()) and not (scores[count:] > 0).any()
    difference = np.abs(ours.scores.numpy() - scores[:count]).max(initial=0.0)
    print(
        f"{image.shape[1]} x {image.shape[0]}: {count} instances, labels {'equal' if labels_agree else 'different'}, "
        f"scores within {difference:.1e}, mask IoU with PyTorch at least {lowest:.4f}"
    )
    if lowest < SMALLEST_IOU or not labels_agree:
        raise UserError("onnxruntime and PyTorch do not agree; the file is not to be trusted")


def scene() -> NDArray[np.uint8]:
    return read_image(sorted(shapes.ensure("val", count=4).images.iterdir())[0])


if __name__ == "__main__":
    commands.run(main)
