"""Folded batch norms give what they gave before."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from common.ops.batch_norm_folding import fold_batch_norms


def norm_of(norm: nn.Module) -> nn.Module:
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        torch.nn.init.uniform_(value, 0.5, 2)
    return norm


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
@pytest.mark.parametrize("bias", [False, True])
def test_a_residual_block_answers_as_before_without_norms(norm: type[nn.Module], bias: bool) -> None:
    torch.manual_seed(0)
    shortcut = nn.Sequential(nn.Conv2d(3, 16, 1, bias=bias), norm(16))
    block = Bottleneck(3, 4, downsample=shortcut, norm_layer=norm).eval()
    norms = [norm_of(module) for module in block.modules() if isinstance(module, norm)]
    image = torch.randn(2, 3, 8, 9)
    with torch.no_grad():
        expected = block(image)
        fold_batch_norms(block)
        torch.testing.assert_close(block(image), expected)
    assert len(norms) == 4
    assert not [module for module in block.modules() if isinstance(module, norm)]


def named(**layers: nn.Module) -> nn.Module:
    """A module with these layers, as torchvision's blocks have them."""
    module = nn.Module()
    for name, layer in layers.items():
        module.add_module(name, layer)
    return module.eval()


@pytest.mark.parametrize(
    "network",
    [
        named(conv1=nn.ConvTranspose2d(4, 4, 3), bn1=nn.BatchNorm2d(4)),
        named(conv1=nn.Linear(4, 4), bn1=nn.BatchNorm2d(4)),
        named(conv1=nn.Conv2d(4, 4, 3), bn2=nn.BatchNorm2d(4)),
        named(conv1=nn.Conv2d(4, 4, 3), bn1=nn.GroupNorm(2, 4)),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)).eval(),
    ],
)
def test_what_no_convolution_stands_before_stays(network: nn.Module) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold_batch_norms(network)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
