"""Mask R-CNN's last step, 100 masks into a photograph of 1080p: time and memory beside torchvision's.

python scripts/bench/maskrcnn_paste.py
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import tyro
from _timing import in_a_copy, measure, memory, print_table
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from maskrcnn.pasting import paste

SIZE = (1080, 1920)
COUNT = 100


def torchvision_way(soft_masks: Tensor, boxes: Tensor) -> Tensor:
    """A float mask of full size for each object, then all of them together, then the threshold."""
    return paste_masks_in_image(soft_masks[:, None], boxes, SIZE)[:, 0] > 0.5


def our_way(soft_masks: Tensor, boxes: Tensor) -> Tensor:
    return paste(soft_masks, boxes, SIZE, 0.5, "detectron")


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "torchvision paste_masks_in_image": torchvision_way,
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
    """How many MB one of the ways takes at its peak, in a copy of this process."""
    torch.set_num_threads(1)  # a copy can't go on with threads that this process has started
    soft, boxes = example(largest)
    WAYS[way](soft[:1], boxes[:1])
    before = memory()
    WAYS[way](soft, boxes)
    return memory() - before


def main(rounds: int = 5, threads: int = 1) -> None:
    """With more threads, their waiting counts as CPU time too."""
    torch.set_num_threads(threads)
    for kind, largest in (("objects of all sizes", 0.3), ("objects as large as the image", 1.0)):
        soft, boxes = example(largest)
        different = int((torchvision_way(soft, boxes) != our_way(soft, boxes)).sum())
        ways = {name: partial(way, soft, boxes) for name, way in WAYS.items()}
        print_table(f"{COUNT} masks to {SIZE[0]}x{SIZE[1]}, {kind}", measure(ways, rounds), next(iter(WAYS)))
        print(f"Different pixels: {different} of {COUNT * SIZE[0] * SIZE[1]}. The masks themselves are 198 MB.")
        for name in WAYS:
            print(f"{name:36}{in_a_copy(partial(peak_memory, name, largest)):>14.0f} MB at its peak")
        print()


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
