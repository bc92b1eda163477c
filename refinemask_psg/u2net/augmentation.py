"""What training does to a photograph and its mask: scale to a square, mirror, cut out a smaller square."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from refinemask_psg.u2net.config import Augment
from refinemask_psg.u2net.resizing import resize_smoothed


class RescaleAndCrop(v2.Transform):  # type: ignore[misc]
    """The paper's augmentation (section 4.2)."""

    def __init__(self, settings: Augment):
        super().__init__()
        self.settings = settings

    def forward(self, items: dict[str, Any]) -> dict[str, Any]:
        side, crop = self.settings.size, self.settings.crop
        scaled = resize_smoothed(items["image"].permute(1, 2, 0).numpy(), side, side)  # [side, side, 3], 0 to 1
        image = torch.from_numpy(np.rint(scaled * 255).astype(np.uint8)).permute(2, 0, 1)
        matte = F.interpolate(items["semantic"][None, None], (side, side), mode="nearest-exact")[0, 0]
        top, left = torch.randint(side - crop + 1, (2,)).tolist()
        flips = torch.rand(2) < torch.tensor([self.settings.vertical, self.settings.horizontal])
        axes = [axis for axis, flip in zip((-2, -1), flips.tolist(), strict=True) if flip]
        image, matte = (
            each[..., top : top + crop, left : left + crop].flip(axes).contiguous() for each in (image, matte)
        )
        nothing = tv_tensors.Mask(torch.zeros(0, crop, crop, dtype=torch.bool))
        return items | {"image": tv_tensors.Image(image), "semantic": tv_tensors.Mask(matte), "masks": nothing}
