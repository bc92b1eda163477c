"""Export U-2-Net to ONNX: python export.py --weights FILE --out model.onnx.

The graph takes photographs [N, 3, S, S], RGB from 0 to 1, already scaled to a square, and gives each one's map
[N, S, S], stretched from 0 to 1; what remains outside is scaling to the square and back.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError
from maskworks import command_line, exported, exporting
from maskworks.command_line import program
from maskworks.shapes.scenes import draw_scene
from refinemask_psg.u2net.network import U2Net, normalise, stretch
from refinemask_psg.u2net.resizing import resize_smoothed
from refinemask_psg.u2net.weights import load

# of a map's values: a quarter of a grey level; of what half precision leaves of it, five
LARGEST_DIFFERENCE = {"fp32": 1e-3, "fp16": 2e-2}


@dataclass
class Export(exporting.Export):
    """Write the network, from pixels to maps, as one file, and check it against PyTorch."""

    weights: str
    """A checkpoint of ours, or the published u2net.pth or u2netp.pth."""
    size: int = 0
    """Side of the square; 0: as the checkpoint says, 320 for the published ones."""
    images: int = 1
    """How many photographs the graph takes at once."""


class Graph(nn.Module):
    """U-2-Net with what `predict` does around it, but for the scaling."""

    def __init__(self, model: U2Net):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        maps = self.model(normalise(images / images.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)))[0][:, 0]
        return stretch(maps.sigmoid())


def main() -> None:
    options = command_line.read(Export, "export.py")
    if options.images < 1 or options.size < 0:
        raise UserError(f"--images {options.images} --size {options.size}: expected at least 1, and a side")
    model = load(options.weights)
    graph, side = Graph(model).eval(), options.size or model.config.test.size
    scenes = [resize_smoothed(draw_scene(0, "val", number).image, side, side) for number in range(options.images)]
    images = torch.from_numpy(np.stack(scenes).astype(np.float32)).permute(0, 3, 1, 2).contiguous()
    words = exported.words("u2net", model.config, size=(side, side))
    session = exporting.write(graph, {"images": images}, options, ("maps",), words)
    with torch.inference_mode():
        ours = graph(images).numpy()
    (theirs,) = session.run(None, {"images": images.numpy()})
    largest = float(np.abs(ours - theirs).max())
    print(f"{len(images)} maps of {side} x {side}, largest difference from PyTorch {largest:.1e}")
    if not largest <= LARGEST_DIFFERENCE[options.precision]:
        raise UserError("its runtime and PyTorch do not agree; the file is not to be trusted")
    exporting.finish(session, options)


if __name__ == "__main__":
    program.run(main)
