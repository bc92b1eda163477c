"""SOLOv2's last step, masks from stride 4 to the photograph: two plain resizes beside only what is needed.

python scripts/bench/solov2_masks.py
"""

from functools import partial

import torch
import torch.nn.functional as F
import tyro
from _timing import measure, print_table
from torch import Tensor

from solov2.postprocess import enlarge

RESIZED, ORIGINAL = (448, 597), (480, 640)


def plain(soft_masks: Tensor) -> Tensor:
    """The original's formulation: every map whole, twice."""
    size = (4 * soft_masks.shape[1], 4 * soft_masks.shape[2])
    whole = F.interpolate(soft_masks[:, None], size, mode="bilinear", align_corners=False)
    whole = whole[:, :, : RESIZED[0], : RESIZED[1]]
    return F.interpolate(whole, ORIGINAL, mode="bilinear", align_corners=False)[:, 0] > 0.5


def example(count: int, largest: float) -> Tensor:
    """Soft ellipses, half axes up to `largest` of the image's sides. [count, 112, 152]"""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(4, count, 1, 1, generator=generator)
    y, x = torch.arange(112)[:, None] / 112, torch.arange(152) / 152
    distance = ((y - place[0]) / (0.02 + largest * place[2])) ** 2 + ((x - place[1]) / (0.02 + largest * place[3])) ** 2
    return torch.sigmoid(8 * (1 - distance))


def main(rounds: int = 7, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    for kind, largest in (("objects of all sizes", 0.3), ("objects as large as the image", 1.0)):
        soft = example(100, largest)
        ours = partial(enlarge, soft, RESIZED, ORIGINAL, 0.5)
        different = int((plain(soft) != ours()).sum())
        ways = {"two plain resizes": partial(plain, soft), "solov2.postprocess.enlarge": ours}
        print_table(f"100 masks to 480x640, {kind}", measure(ways, rounds), "two plain resizes")
        print(f"Different pixels: {different} of {100 * ORIGINAL[0] * ORIGINAL[1]}.\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
