"""Mask R-CNN's last step, 100 masks into a photograph of 1080p: torchvision's, OpenCV's, and only what is needed.

python scripts/bench/maskrcnn_paste.py                      the step by itself, time and memory
python scripts/bench/maskrcnn_paste.py --variant r50_fpn_1x  and its part of a whole prediction
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial

import cv2
import numpy as np
import torch
from _timing import Clock, measure, memory, print_table
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from common.data.images import resize
from common.ops.folding import fold_batch_norms
from common.run.configuration import choose
from maskrcnn.config import VARIANTS
from maskrcnn.network import MaskRCNN
from maskrcnn.pasting import paste, with_border
from maskrcnn.postprocess import at_original_size
from maskworks.shapes.scenes import draw_scene

SIZE = (1080, 1920)
COUNT = 100


def torchvision_way(soft_masks: Tensor, boxes: Tensor) -> Tensor:
    """A float mask of full size for each object, then all of them together, then the threshold."""
    return paste_masks_in_image(soft_masks[:, None], boxes, SIZE)[:, 0] > 0.5


def opencv_way(soft_masks: Tensor, boxes: Tensor) -> Tensor:
    """Each mask resized by OpenCV to its box, and cut at the border: the formulation of many tutorials."""
    pasted = np.zeros((len(boxes), *SIZE), bool)
    padded, grown = with_border(soft_masks, boxes)
    for whole, mask, (x1, y1, x2, y2) in zip(pasted, padded.numpy(), grown.tolist(), strict=True):
        resized = cv2.resize(mask, (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1))) > 0.5
        top, left = max(y1, 0), max(x1, 0)
        part = resized[top - y1 : SIZE[0] - y1, left - x1 : SIZE[1] - x1]
        whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return torch.from_numpy(pasted)


def our_way(soft_masks: Tensor, boxes: Tensor) -> Tensor:
    return paste(soft_masks, boxes, SIZE, 0.5, "detectron")


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torchvision paste_masks_in_image": torchvision_way,
    "OpenCV resize": opencv_way,
    "maskrcnn.pasting.paste": our_way,
}


def example(largest: float) -> tuple[Tensor, Tensor]:
    """Soft ellipses [100, 28, 28] in boxes whose sides are up to `largest` of the image's."""
    random = np.random.RandomState(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    tilt = torch.from_numpy(random.uniform(-0.6, 0.6, (COUNT, 1, 1))).float()
    soft = torch.sigmoid(10 * (0.9 - x**2 - y**2 - tilt * x * y))
    sides = random.uniform(0.03, largest, (COUNT, 2)) * [SIZE[1], SIZE[0]]
    centres = random.uniform(0.1, 0.9, (COUNT, 2)) * [SIZE[1], SIZE[0]]
    return soft, torch.from_numpy(np.concatenate((centres - sides / 2, centres + sides / 2), axis=1)).float()


def peak_memory(way: str, largest: float) -> float:
    """How many MB one of the ways takes at its peak; asked of a process of its own."""
    line = [sys.executable, __file__, "--memory-of", way, "--largest", str(largest)]
    return float(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def print_growth(way: str, largest: float) -> None:
    soft, boxes = example(largest)
    WAYS[way](soft[:1], boxes[:1])
    before = memory()
    WAYS[way](soft, boxes)
    print(memory() - before)


@torch.inference_mode()
def print_share(variant: str, rounds: int) -> None:
    """What part of a whole prediction, photograph to masks with 100 objects, pasting is."""
    config = deepcopy(choose(VARIANTS, variant))
    torch.manual_seed(0)
    config.test.score_threshold = 0.0
    model = MaskRCNN(config, [f"class {number}" for number in range(80)]).eval()
    for module in model.modules():  # random weights that neither vanish nor explode
        if hasattr(module, "bn3") and hasattr(module.bn3, "weight"):
            module.bn3.weight.fill_(0.3)
    fold_batch_norms(model)
    model = model.to(memory_format=torch.channels_last)
    image = resize(draw_scene(0, "val", 0).image, *SIZE)
    clock = Clock()

    def up_to_pasting() -> tuple[Tensor, Tensor]:
        prepared = model.preprocess(image)
        answers = model(prepared.tensor[None])
        objects = model.detect(answers, torch.tensor([prepared.resized_size]))
        return model.soft_masks(answers.features, objects), at_original_size(objects.boxes, prepared)

    for _ in range(rounds):
        soft, boxes = clock.time("before", up_to_pasting)
        clock.time("paste", partial(paste, soft, boxes, SIZE, 0.5, config.conventions.pasting))
    before, step = clock.medians().values()
    part = f"pasting {1000 * step:.0f} ms = {step / (before + step):.1%} of it"
    print(f"{variant}: {len(boxes)} objects, {before + step:.2f} s, {part}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="with more, their waiting counts as CPU time too")
    parser.add_argument("--variant", choices=[*VARIANTS, "none"], default="none")
    parser.add_argument("--memory-of", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--largest", type=float, default=0.3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print_growth(arguments.memory_of, arguments.largest)
        return
    peer = next(iter(WAYS))
    for kind, largest in (("objects of all sizes", 0.3), ("objects as large as the image", 1.0)):
        soft, boxes = example(largest)
        different = int((torchvision_way(soft, boxes) != our_way(soft, boxes)).sum())
        ways = {name: partial(way, soft, boxes) for name, way in WAYS.items()}
        print_table(f"{COUNT} masks to {SIZE[0]}x{SIZE[1]}, {kind}", measure(ways, arguments.rounds), peer)
        print(f"Different pixels: {different} of {COUNT * SIZE[0] * SIZE[1]}. The masks themselves are 198 MB.")
        for name in WAYS:
            print(f"{name:36}{peak_memory(name, largest):>14.0f} MB at its peak")
        print()
    if arguments.variant != "none":
        print_share(arguments.variant, arguments.rounds)


if __name__ == "__main__":
    main()
