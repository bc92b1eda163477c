"""YOLACT from a photograph's bytes to masks at its size: ours beside the paper's formulas written down plainly.

python scripts/bench/yolact_speed.py                       resnet50_550, batch 1
python scripts/bench/yolact_speed.py --threads 2           on two cores; their waiting counts as CPU time too

Both have the same weights. The plain one is eager, in PyTorch's default memory format, with its batch norms as they
are; it sorts all candidates of each class, compares 200 x 200 boxes, and enlarges every mask whole.
"""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from _timing import measure, print_table
from _yolact import network, photograph
from numpy.typing import NDArray
from torch import Tensor

from common.ops.folding import fold_batch_norms
from common.run import commands
from yolact.network import YOLACT

MEAN, STD = (123.68, 116.78, 103.94), (58.40, 57.12, 57.38)
TARGET = 1.3


@torch.inference_mode()
def plain(model: YOLACT, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores, labels, boxes and masks, as the paper's sections 3 and 4 say it."""
    test, size = model.config.test, model.config.model.input_size
    pixels = torch.from_numpy(image).float().permute(2, 0, 1)[None].contiguous()
    square = F.interpolate(pixels, (size, size), mode="bilinear", align_corners=False)
    square = (square - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    answers = model(square)
    conf = F.softmax(answers.class_logits[0], dim=-1).T[1:]  # [80, priors]
    kept = conf.max(dim=0)[0] > test.score_threshold
    deltas, priors = answers.deltas[0][kept], model.priors[kept]
    centres = priors[:, :2] + deltas[:, :2] * 0.1 * priors[:, 2:]
    sides = priors[:, 2:] * torch.exp(deltas[:, 2:] * 0.2)
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1)
    scores, labels, boxes, coefficients = plain_fast_nms(conf[:, kept], boxes, answers.coefficients[0][kept])
    return scores, labels, *plain_masks(answers.prototypes[0], coefficients, boxes, image.shape[0], image.shape[1])


def plain_fast_nms(scores: Tensor, boxes: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    scores, order = scores.sort(1, descending=True)
    scores, order = scores[:, :200], order[:, :200]
    classes, count = order.shape
    boxes, coefficients = boxes[order.reshape(-1)].view(classes, count, 4), coefficients[order.reshape(-1)]
    first, second = boxes[:, :, None].expand(-1, -1, count, -1), boxes[:, None].expand(-1, count, -1, -1)
    sides = (torch.min(first[..., 2:], second[..., 2:]) - torch.max(first[..., :2], second[..., :2])).clamp(min=0)
    common = sides[..., 0] * sides[..., 1]
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    iou = common / (areas[:, :, None] + areas[:, None] - common)
    keep = iou.triu_(diagonal=1).max(dim=1)[0] <= 0.5
    labels = torch.arange(classes)[:, None].expand_as(keep)[keep]
    scores, best = scores[keep].sort(0, descending=True)
    best = best[:100]
    return scores[:100], labels[best], boxes[keep][best], coefficients.view(classes, count, -1)[keep][best]


def plain_masks(
    prototypes: Tensor, coefficients: Tensor, boxes: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    masks = torch.sigmoid(prototypes @ coefficients.T)  # [h, w, n]
    rows, columns, _ = masks.shape
    x1, x2 = torch.min(boxes[:, 0], boxes[:, 2]) * columns, torch.max(boxes[:, 0], boxes[:, 2]) * columns
    y1, y2 = torch.min(boxes[:, 1], boxes[:, 3]) * rows, torch.max(boxes[:, 1], boxes[:, 3]) * rows
    x1, y1, x2, y2 = (x1 - 1).clamp(min=0), (y1 - 1).clamp(min=0), (x2 + 1).clamp(max=columns), (y2 + 1).clamp(max=rows)
    x = torch.arange(columns, dtype=torch.float32).view(1, -1, 1).expand_as(masks)
    y = torch.arange(rows, dtype=torch.float32).view(-1, 1, 1).expand_as(masks)
    masks = masks * ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).float()
    masks = masks.permute(2, 0, 1).contiguous()[None]
    large = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)[0]
    whole = torch.stack(
        [
            (boxes[:, 0] * width).clamp(min=0),
            (boxes[:, 1] * height).clamp(min=0),
            (boxes[:, 2] * width).clamp(max=width),
            (boxes[:, 3] * height).clamp(max=height),
        ],
        dim=1,
    )
    return whole.long(), large > 0.5


def main(variant: str = "resnet50_550", rounds: int = 5, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    for height, width in ((480, 640), (1080, 1920)):
        image = photograph(height, width)
        theirs, ours = network(variant, image), network(variant, image)
        fold_batch_norms(ours)
        ours = ours.to(memory_format=torch.channels_last)
        ways = {"plain": partial(plain, theirs, image), "yolact.YOLACT.predict": partial(ours.predict, [image])}
        title = f"{variant}, one photograph of {height}x{width}, {threads} thread(s)"
        print_table(title, measure(ways, rounds), "plain", TARGET)
        report_agreement(theirs, image)


def report_agreement(model: YOLACT, image: NDArray[np.uint8]) -> None:
    """That both formulations find the same, with the very same convolutions."""
    _, labels, boxes, masks = plain(model, image)
    model.config.test.drop_empty_boxes = False
    found = model.predict([image])[0]
    assert found.masks is not None
    same = bool(torch.equal(found.labels, labels)) and bool(torch.equal(found.boxes.long(), boxes))
    different = int((found.masks != masks).sum())
    print(
        f"{len(labels)} instances, labels and boxes {'equal' if same else 'different'}, their masks cover "
        f"{masks.float().mean():.1%} of the photograph each; different pixels: {different} of {masks.numel()}.\n"
    )


if __name__ == "__main__":
    commands.run(lambda: tyro.cli(main, description=__doc__))
