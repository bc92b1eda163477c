"""CBNetV2's dense composition of two Swins (arXiv 2107.00420, section 3): the assisting one feeds the lead one."""

import torch.nn.functional as F
from torch import Tensor, nn

from refinemask_psg.swin import Swin


class CompositeSwin(nn.Module):
    """Images -> the features of the assisting and of the lead backbone; only the lead's are needed to predict."""

    def __init__(self, drop_path: float, checkpoint_blocks: bool, absolute_positions: bool):
        super().__init__()
        self.assisting = Swin(drop_path, checkpoint_blocks, embeds=True, absolute_positions=absolute_positions)
        self.lead = Swin(drop_path, checkpoint_blocks, embeds=False, absolute_positions=False)
        self.channels = self.lead.channels
        # connections[i][j]: from the assisting stage i + j to the lead's stage i
        self.connections = nn.ModuleList(
            nn.ModuleList(connection(self.channels[i + j], self.channels[i]) for j in range(4 - i)) for i in range(4)
        )

    def forward(self, images: Tensor) -> list[list[Tensor]]:
        """Normalised images [N, 3, H, W] -> two lists of features, at strides 4, 8, 16, 32."""
        embedded = self.assisting.embed(images)
        sizes, assisting, features = [], [], embedded
        for index in range(4):
            sizes.append((features.shape[1], features.shape[2]))
            output, features = self.assisting.stage(index, features)
            assisting.append(output)
        lead, features = [], embedded
        for index in range(4):
            features = features + self._help(index, assisting, sizes[index])
            output, features = self.lead.stage(index, features)
            lead.append(output)
        return [assisting, lead]

    def _help(self, stage: int, assisting: list[Tensor], size: tuple[int, int]) -> Tensor:
        """What the assisting backbone adds to the lead's input of a stage: [N, h, w, C]."""
        total = self.connections[stage][0](assisting[stage])  # type: ignore[index]
        for offset, layer in enumerate(list(self.connections[stage])[1:], start=1):  # type: ignore[call-overload]
            total = total + F.interpolate(layer(assisting[stage + offset]), size, mode="nearest")
        permuted: Tensor = total.permute(0, 2, 3, 1)
        return permuted


def connection(inputs: int, outputs: int) -> nn.Module:
    """Nothing between equals, else a 1 x 1 convolution that starts at zero, so that training starts from two Swins."""
    if inputs == outputs:
        return nn.Identity()
    layer = nn.Conv2d(inputs, outputs, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
