"""SOLOv2's last step, masks from stride 4 to the photograph: two plain resizes beside only what is needed.

python scripts/bench/solov2_masks.py
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="with more, their waiting counts as CPU time too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for kind, largest in (("objects of all sizes", 0.3), ("objects as large as the image", 1.0)):
        soft = example(100, largest)
        different = int((plain(soft) != enlarge(soft, RESIZED, ORIGINAL, 0.5)).sum())
        ways: dict[str, Callable[[], object]] = {
            "two plain resizes": lambda soft=soft: plain(soft),  # type: ignore[misc]
            "solov2.postprocess.enlarge": lambda soft=soft: enlarge(soft, RESIZED, ORIGINAL, 0.5),  # type: ignore[misc]
        }
        print_table(f"100 masks to 480x640, {kind}", measure(ways, arguments.rounds), "two plain resizes")
        print(f"Different pixels: {different} of {100 * ORIGINAL[0] * ORIGINAL[1]}.\n")


if __name__ == "__main__":
    main()
