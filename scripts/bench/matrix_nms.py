"""Matrix NMS: common.ops beside the textbook formulation, 500 masks of 112x168.

python scripts/bench/matrix_nms.py
"""

from functools import partial

import torch
import tyro
from _timing import measure, print_table
from torch import Tensor

from common.ops import matrix_nms


def textbook(masks: Tensor, labels: Tensor, scores: Tensor, sigma: float = 2.0) -> Tensor:
    """As the paper's pseudo code does it: a float copy of the masks, matrices of everything against everything."""
    count = len(masks)
    flat = masks.reshape(count, -1).float()
    intersections = flat @ flat.T
    areas = flat.sum(1).expand(count, count)
    overlaps = (intersections / (areas + areas.T - intersections)).triu(1)
    same = (labels.expand(count, count) == labels.expand(count, count).T).float().triu(1)
    overlaps = overlaps * same
    covered = overlaps.max(0).values.expand(count, count).T
    decay = torch.exp(-sigma * overlaps**2) / torch.exp(-sigma * covered**2)
    return scores * decay.min(0).values


def example(count: int, classes: int, height: int = 112, width: int = 168) -> tuple[Tensor, Tensor, Tensor]:
    """Ellipses of all sizes, as a network proposes them."""
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(4, count, 1, 1, generator=generator)
    y, x = torch.arange(height)[:, None] / height, torch.arange(width) / width
    masks = ((y - place[0]) / (0.03 + 0.3 * place[2])) ** 2 + ((x - place[1]) / (0.03 + 0.3 * place[3])) ** 2 < 1
    labels = torch.randint(0, classes, (count,), generator=generator)
    return masks, labels, torch.rand(count, generator=generator).sort(descending=True).values


def main(rounds: int = 11, threads: int = 1) -> None:
    torch.set_num_threads(threads)
    for count, classes in ((100, 80), (500, 80), (500, 1), (2000, 80), (2000, 1)):
        inputs = example(count, classes)
        difference = float((matrix_nms(*inputs) - textbook(*inputs)).abs().max())
        assert difference < 1e-6, f"differs from the textbook by {difference}"
        ways = {"textbook": partial(textbook, *inputs), "common.ops": partial(matrix_nms, *inputs)}
        title = f"{count} masks of 112x168, {classes} class{'es' if classes > 1 else ''}"
        print_table(title, measure(ways, rounds if count <= 500 else 3), "textbook", 3 if count == 500 else None)
        print(f"Largest difference: {difference:.1e}.\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
