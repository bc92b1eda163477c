"""The network: every variant runs, batches like single images, batch norms frozen and folded."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from common.data.batches import Batch, Target
from common.errors import UserError
from tests.tiny import assert_folding_changes_nothing, photograph
from yolact.backbone import DeformableConv2d
from yolact.config import VARIANTS, Config
from yolact.export import GridDeformableConv2d
from yolact.network import YOLACT

SMALL = 96


def small(variant: str) -> Config:
    """A variant at a small input size: the same layers, priors of the same shapes."""
    config = deepcopy(VARIANTS[variant])
    size = 256 if config.model.mask_iou else SMALL
    scales = tuple(scale * size / config.model.input_size for scale in config.model.scales)
    config.model = replace(config.model, input_size=size, scales=scales)
    config.test.score_threshold = 0.0  # an untrained network is sure of nothing
    return config


def with_statistics(model: YOLACT) -> YOLACT:
    """Batch norms as after training: without, the activations of random weights grow from block to block."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.8, 1.2)
            nn.init.normal_(norm.bias, std=0.2)
    with torch.no_grad():
        model.train()(model.preprocess(photograph(80, 90)).tensor[None])
    return model.eval()


@pytest.fixture(scope="module")
def model() -> YOLACT:
    torch.manual_seed(0)
    return YOLACT(small("shapes"), ["a", "b", "c"]).eval()


class Reversed(nn.Module):
    """A backbone or pyramid whose features are the other way round."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, inputs: object) -> object:
        features = self.inner(inputs)
        return type(features)(*features[::-1]) if isinstance(features, tuple) else features[::-1]


@pytest.mark.parametrize("part", ["backbone", "fpn"])
def test_features_in_another_order_than_the_priors_are_never_taken(model, part):
    wrong = deepcopy(model)
    wrong.fpn.lateral = nn.ModuleList(nn.LazyConv2d(64, 1) for _ in range(3))  # fits features of any width
    images = torch.zeros(1, 3, SMALL, SMALL)
    setattr(wrong, part, Reversed(getattr(wrong, part)))
    with pytest.raises(AssertionError):
        wrong(images)


# base stands for im700 and im400, plus_resnet50_550 for plus_base, resnet50_550 for resnet50_pascal: the same layers
OTHERS = ("im700", "im400", "resnet50_pascal", "plus_base")


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name not in OTHERS])
def test_every_variant_trains_and_predicts(variant):
    torch.manual_seed(0)
    model = with_statistics(YOLACT(small(variant), ["a", "b"]))
    found = model.predict([photograph(50, 70)])[0]
    assert found.masks is not None
    assert found.masks.shape[1:] == (50, 70)
    assert 0 < len(found) <= 100
    assert (found.mask_scores is not None) == variant.startswith("plus")
    size = model.config.model.input_size
    masks = torch.zeros(1, size, size, dtype=torch.bool)
    masks[:, 20:70, 30:80] = True
    target = Target(torch.tensor([[30.0, 20.0, 80.0, 70.0]]), torch.tensor([1]), masks)
    images = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    batch = Batch(images, torch.tensor([[size, size]]), [target])
    model.freeze_batch_norms()  # a single image has no statistics at stride 64
    losses = model.train().losses(batch)
    assert set(losses) == {"box", "class", "mask", "semantic"} | ({"mask_iou"} if model.mask_iou else set())
    torch.stack(list(losses.values())).sum().backward()
    trained = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.isfinite().all()] == []


def test_an_input_too_small_for_rating_masks_is_refused():
    config = small("plus_resnet50_550")
    config.model.input_size = 240
    with pytest.raises(UserError, match="too small"):
        YOLACT(config, ["a"])


def test_deformable_convolutions_are_where_the_published_networks_have_them():
    with torch.device("meta"):
        networks = {name: YOLACT(VARIANTS[name], ["a"]) for name in ("plus_resnet50_550", "plus_base")}
    where = {
        name: [at for at, module in network.named_modules() if isinstance(module, DeformableConv2d)]
        for name, network in networks.items()
    }
    assert len(where["plus_resnet50_550"]) == 13
    third = [*range(0, 22, 3)]
    expected = [(2, 0), (2, 3), *((3, block) for block in third), (4, 0)]
    assert where["plus_base"] == [f"backbone.layer{stage}.{block}.conv2" for stage, block in expected]


def test_frozen_batch_norms_stay_frozen_in_training():
    model = YOLACT(small("resnet50_550"), ["a"])
    assert model.train().backbone.bn1.training
    model.freeze_batch_norms()
    model.train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 53
    assert not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert model.backbone.conv1.weight.requires_grad
    assert model.fpn.training


@pytest.mark.parametrize("variant", ["resnet50_550", "plus_resnet50_550", "darknet53_550"])
def test_folding_batch_norms_changes_nothing_but_the_speed(variant):
    torch.manual_seed(0)
    model = with_statistics(YOLACT(small(variant), ["a"]))
    images = model.preprocess(photograph(64, 64, 1)).tensor[None]
    assert_folding_changes_nothing(model, lambda: model(images)[:4])


def test_photographs_are_stretched_in_floating_point_or_in_bytes(model):
    image = photograph(50, 70)
    in_bytes = deepcopy(model)
    in_bytes.config.test.resize = "bytes"
    fine, coarse = model.preprocess(image).tensor, in_bytes.preprocess(image).tensor
    spread = torch.tensor(model.config.model.std)[:, None, None]
    difference = ((fine - coarse) * spread).abs().max()
    assert 0.1 < difference <= 1.0
    levels = coarse * spread + torch.tensor(model.config.model.mean)[:, None, None]
    assert (levels - levels.round()).abs().max() < 1e-3


def test_new_heads_start_as_published():
    with torch.device("meta"):
        names = [name for name, _ in YOLACT(VARIANTS["plus_base"], ["a"] * 80).named_parameters()]
    assert any(name.startswith("mask_iou.convs.5.") for name in names)
    torch.manual_seed(0)
    model = YOLACT(small("resnet50_550"), ["a"] * 80)
    bound = (6 / (256 * 9 + 256 * 9)) ** 0.5  # Xavier, uniform
    assert model.head.shared.weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
    assert model.head.class_logits.bias.abs().max() == 0


def test_the_exported_deformable_convolution_is_the_same_and_can_be_copied():
    torch.manual_seed(0)
    original = DeformableConv2d(4, 6, stride=2)
    torch.nn.init.normal_(original.offset.weight, std=0.1)
    exported, features = deepcopy(GridDeformableConv2d(original)), torch.rand(1, 4, 9, 11)
    torch.testing.assert_close(exported(features), original(features))
