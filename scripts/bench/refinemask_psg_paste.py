"""RefineMask's last step, 100 masks of 112 x 112 into a photograph of 1080p: time, memory, and what they are part of.

python scripts/bench/refinemask_psg_paste.py                                  the step by itself
python scripts/bench/refinemask_psg_paste.py --variant refinemask_r50_1x      and a whole prediction beside it
"""

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from _timing import Clock
from torch import Tensor

from common.data.images import resize
from common.ops.folding import fold_batch_norms
from common.run import commands
from common.run.configuration import choose
from maskworks.shapes.scenes import draw_scene
from refinemask_psg.config import VARIANTS, Inference
from refinemask_psg.network import RefineMask
from refinemask_psg.postprocess import paste

SIZE = (1080, 1920)
COUNT = 100


def masks_and_boxes() -> tuple[Tensor, Tensor]:
    """Round masks in boxes of 40 to 700 pixels."""
    random = np.random.RandomState(0)
    sides = np.exp(random.uniform(np.log(40), np.log(700), (COUNT, 2)))
    corners = random.uniform(0, 1, (COUNT, 2)) * np.maximum([SIZE[1], SIZE[0]] - sides, 1)
    line = torch.linspace(-1, 1, 112)
    mask = (4 * (0.8 - line[:, None] ** 2 - line**2)).sigmoid()
    boxes = torch.from_numpy(np.concatenate((corners, corners + sides), axis=1)).float()
    return mask.expand(COUNT, -1, -1).contiguous(), boxes


def over_the_whole_photograph(masks: Tensor, boxes: Tensor) -> Tensor:
    """MMDetection's way on a GPU: every mask sampled at every pixel of the photograph."""
    height, width = SIZE
    x = (torch.arange(width) + 0.5 - boxes[:, :1]) / (boxes[:, 2:3] - boxes[:, :1]) * 2 - 1
    y = (torch.arange(height) + 0.5 - boxes[:, 1:2]) / (boxes[:, 3:] - boxes[:, 1:2]) * 2 - 1
    grid = torch.stack((x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), dim=-1)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= 0.5


def seconds(repeat: int, work: Callable[[], object]) -> float:
    """The median of the processor time of calls."""
    clock = Clock()
    for _ in range(repeat):
        clock.time("", work)
    return clock.medians()[""]


def main(variant: str = "") -> None:
    """Predicts with a variant too, untrained, if one is named."""
    torch.set_num_threads(1)
    masks, boxes = masks_and_boxes()
    ten = slice(0, 10)
    assert torch.equal(
        paste(masks[ten], boxes[ten], SIZE, Inference()), over_the_whole_photograph(masks[ten], boxes[ten])
    )
    print(f"{COUNT} masks into {SIZE[1]} x {SIZE[0]}, one thread, median of 5, CPU seconds")
    ours = seconds(5, lambda: paste(masks, boxes, SIZE, Inference()))
    every = SIZE[0] * SIZE[1] * COUNT
    largest = float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).max())
    print(f"  refinemask_psg.postprocess.paste   {ours:7.2f}   floats at once: {largest * 12 / 1e6:.0f} MB")
    whole = 10 * seconds(1, lambda: over_the_whole_photograph(masks[ten], boxes[ten]))
    print(f"  the whole photograph for each      {whole:7.2f}   floats at once: {every * 12 / 1e6:.0f} MB")
    if variant:
        config = deepcopy(choose(VARIANTS, variant))
        config.test.score_threshold = 0.0
        torch.manual_seed(0)
        model = RefineMask(config, [f"class {number}" for number in range(80)]).eval()
        fold_batch_norms(model.backbone)
        image = resize(draw_scene(0, "val", 0).image, *SIZE)
        prediction = seconds(1, lambda: model.predict([image]))
        share = 100 * ours / prediction
        print(f"  a whole prediction, {variant}: {prediction:.1f}, pasting is {share:.1f} % of it")


if __name__ == "__main__":
    commands.run(lambda: tyro.cli(main, description=__doc__))
