"""What the loader does to photographs and their people before the network sees them."""

from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from pose2seg.geometry import letterbox_matrix, letterboxed, moved


class Letterbox(v2.Transform):  # type: ignore[misc]
    """Warp a photograph into the network's square, and boxes and joints with it.

    Masks stay at the photograph's size: targets are cut out of them straight into each person's window, which is also
    where all random movement happens (targets.py).
    """

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        image = next(item for item in flat_inputs if isinstance(item, tv_tensors.Image))
        return {"matrix": letterbox_matrix(image.shape[-2], image.shape[-1], self.side)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        canvas = (self.side, self.side)
        if isinstance(inpt, tv_tensors.Image):
            pixels = letterboxed(inpt.permute(1, 2, 0).numpy(), self.side)
            return tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
        if isinstance(inpt, tv_tensors.KeyPoints):
            return tv_tensors.KeyPoints(moved(inpt.as_subclass(Tensor), params["matrix"]), canvas_size=canvas)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            corners = moved(inpt.as_subclass(Tensor).reshape(-1, 2, 2), params["matrix"])
            return tv_tensors.BoundingBoxes(corners.reshape(-1, 4), format="XYXY", canvas_size=canvas)
        return inpt
