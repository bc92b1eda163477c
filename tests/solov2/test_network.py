"""The network: deformable like plain where nothing deforms, batch norms frozen and folded."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from solov2.backbone import Backbone, DeformableConv2d
from solov2.config import VARIANTS
from solov2.network import SOLOv2, with_coordinates, with_waves
from tests.tiny import CLASSES, assert_folding_changes_nothing, photograph, tiny


@pytest.mark.parametrize("size", [(96, 80), (40, 96)])
def test_a_prepared_photograph_has_sides_that_all_strides_divide(size):
    prepared = SOLOv2(tiny("solov2"), CLASSES).preprocess(photograph(*size))
    assert all(side % 32 == 0 for side in prepared.tensor.shape[1:])


def test_coordinates_reach_both_ends():
    planes = with_coordinates(torch.zeros(2, 1, 3, 5))[:, 1:]
    assert planes[1, 0, 2].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert planes[0, 1, :, 4].tolist() == [-1, 0, 1]


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_deformable_convolution_that_deforms_nothing_is_a_plain_one(modulated, groups):
    plain = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups, bias=False)
    deformable = DeformableConv2d(plain, modulated)
    deformable.weight = plain.weight
    features = torch.randn(2, 8, 9, 7)
    expected = plain(features) * (0.5 if modulated else 1.0)  # a modulation of sigmoid(0)
    torch.testing.assert_close(deformable(features), expected, rtol=1e-5, atol=1e-6)


def test_offsets_move_the_samples_down_and_right():
    convolution = DeformableConv2d(nn.Conv2d(1, 1, 1, bias=False), modulated=False)
    nn.init.ones_(convolution.weight)
    convolution.offset.bias.data = torch.tensor([1.0, 2.0])  # y, x
    features = torch.arange(30.0).view(1, 1, 5, 6)
    assert convolution(features)[0, 0, :4, :4].equal(features[0, 0, 1:, 2:])


def test_a_new_network_starts_at_one_percent_and_with_the_published_spreads():
    torch.manual_seed(0)
    config = deepcopy(VARIANTS["light_r50_dcn_512"])
    model = SOLOv2(config, ["a"] * 80)
    head = model.category_kernel_head
    assert torch.sigmoid(head.category.bias[0]).item() == pytest.approx(0.01)
    assert head.category_tower[0].conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.category_tower[2].conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.category_tower[2].conv.offset.weight.abs().max() == 0


def test_frozen_stages_and_statistics_stay_as_they_are():
    model = SOLOv2(VARIANTS["light_r18_448"], ["a"]).train()
    assert not model.backbone.bn1.training
    assert not any(p.requires_grad for p in model.backbone.layer1.parameters())
    assert all(p.requires_grad for p in model.backbone.layer2.parameters())


@pytest.mark.parametrize("variant", ["light_r18_448", "light_r50_dcn_512", "x101_dcn_3x"])
def test_folding_batch_norms_changes_nothing_but_the_speed(variant):
    torch.manual_seed(0)
    backbone, images = Backbone(VARIANTS[variant].model).eval(), torch.randn(1, 3, 64, 64)
    assert_folding_changes_nothing(backbone, lambda: backbone(images), most=1e-5)


def test_a_place_is_most_like_itself_by_its_waves_and_the_same_at_any_resolution():
    waves = with_waves(torch.zeros(2, 1, 15, 21), 4)[1, 1:]  # [16, 15, 21]
    flat = waves.flatten(1).double()
    likeness = flat.T @ flat
    assert torch.allclose(likeness.diagonal(), torch.full((15 * 21,), 8.0, dtype=torch.double))  # sin^2 + cos^2
    assert (likeness - 8 * torch.eye(15 * 21)).max() < 7.5
    assert torch.allclose(with_waves(torch.zeros(1, 1, 5, 7), 4)[0, 1:], waves[:, 1::3, 1::3], atol=1e-5)


def test_a_network_that_knows_places_by_waves_learns_and_predicts():
    config = tiny("solov2")
    config.model.waves = 3
    torch.manual_seed(0)
    network = SOLOv2(config, CLASSES).eval()
    answers = network(torch.zeros(1, 3, 64, 96))
    assert answers.mask_feature.shape[1] == answers.kernels[0].shape[1] == config.model.mask_channels + 12
    assert len(network.predict([photograph(60, 90)])) == 1
