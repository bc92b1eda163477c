"""The whole network: every variant runs, what is frozen stays, images do not see one another."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import upsnet
from common.data.batches import UNLABELLED, Batch, Target
from maskworks.shapes.scenes import draw_scene
from upsnet.backbone import DeformableConv2d, EfficientNetBackbone, TensorFlowConv2d, make_backbone
from upsnet.classes import CITYSCAPES, COCO
from upsnet.heads import level_of

SHAPES = [f"class {index}" for index in range(13)]


def small(variant: str = "shapes", **test: int) -> upsnet.UPSNet:
    """A variant with its own network, for small photographs."""
    config = deepcopy(upsnet.VARIANTS[variant])
    names = {"shapes": SHAPES, "coco": list(COCO), "cityscapes": list(CITYSCAPES)}[variant.rpartition("_")[2]]
    config.model.things = config.model.things or 8
    config.test = replace(config.test, **{"long_side": 128, "short_side": 96} | test)
    torch.manual_seed(0)
    return upsnet.UPSNet(config, names)


def batch_of(model: upsnet.UPSNet, objects: int = 3, crowds: int = 0) -> Batch:
    """Two random images; the second is smaller and has nothing on it."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 128, 160), dtype=torch.uint8)
    masks = torch.zeros(objects, 128, 160, dtype=torch.bool)
    boxes = torch.tensor([[10.0 * i, 5.0 * i, 10.0 * i + 50, 5.0 * i + 40] for i in range(objects + crowds)])
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=False):
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    semantic = torch.randint(0, len(model.class_names), (128, 160), dtype=torch.uint8)
    semantic[:, 150:] = UNLABELLED
    labels = torch.arange(objects + crowds) % model.things
    first = Target(
        boxes[:objects].reshape(-1, 4),
        labels[:objects],
        masks,
        crowd_boxes=boxes[objects:].reshape(-1, 4),
        crowd_labels=labels[objects:],
        semantic=semantic,
    )
    nothing = Target(
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, 128, 160, dtype=torch.bool),
        semantic=torch.full((128, 160), UNLABELLED, dtype=torch.uint8),
    )
    return Batch(images, torch.tensor([[128, 160], [96, 128]]), [first, nothing])


@pytest.mark.parametrize("variant", list(upsnet.VARIANTS))
def test_every_variant_gives_each_pixel_a_segment(variant):
    model = small(variant).eval()
    image = draw_scene(0, "val", 0).image[:60, :90]
    result = model.predict_everything([image])[0]
    assert result.panoptic.segments.shape == result.semantic.shape == (60, 90)
    assert {info.id for info in result.panoptic.infos} == set(result.panoptic.segments.unique().tolist()) - {0}
    assert all(info.is_thing == (info.label < model.things) for info in result.panoptic.infos)
    assert result.instances.masks.shape[1:] == (60, 90)
    assert int(result.semantic.max()) < len(model.class_names)


@pytest.mark.parametrize("crowds", [0, 2])
@pytest.mark.parametrize("objects", [0, 3])
def test_every_parameter_learns_whatever_is_on_the_images(objects, crowds):
    model = small().train()
    losses = model.losses(batch_of(model, objects, crowds))
    torch.stack(list(losses.values())).sum().backward()
    assert all(value.isfinite() for value in losses.values())
    unused = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not unused  # or DistributedDataParallel would wait for them


@pytest.mark.parametrize("variant", ["resnet50_coco", "efficientnet_b0_coco"])
def test_the_stem_and_first_stage_and_all_batch_norms_stay_as_they_are(variant):
    model = small(variant).train()
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    first = (
        "backbone.features.0.",
        "backbone.features.1.",
        "backbone.features.2.",
        "backbone.layer1.",
        "backbone.conv1",
    )
    assert all(name in frozen for name, _ in model.named_parameters() if name.startswith(first))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    assert not any(value.requires_grad for module in norms for value in module.parameters())
    deep = "backbone.features.7.0.block.3.0.weight" if "efficient" in variant else "backbone.layer4.0.conv1.weight"
    assert deep not in frozen


def test_padding_is_zero_and_colours_are_in_the_models_order():
    model = small("resnet50_coco", short_side=50, long_side=100)
    image = np.full((50, 60, 3), (10, 20, 30), np.uint8)
    prepared = model.preprocess(image)
    assert prepared.tensor.shape == (3, 64, 64)
    expected = np.float32([30 - 102.9801, 20 - 115.9465, 10 - 122.7717])
    np.testing.assert_allclose(prepared.tensor[:, 0, 0], expected, rtol=1e-6)
    assert not prepared.tensor[:, 50:].any()


def test_a_deformable_convolution_without_offsets_is_a_plain_one():
    conv = DeformableConv2d(4, 6, bias=True, stride=2)
    features = torch.randn(1, 4, 9, 11)
    torch.testing.assert_close(conv(features), F.conv2d(features, conv.weight, conv.bias, 2, 1))


def test_strides_are_in_the_first_convolution_of_a_stage():
    backbone = make_backbone(upsnet.VARIANTS["resnet101_dcn_coco"].model)
    assert backbone.layer2[0].conv1.stride == (2, 2)
    assert backbone.layer2[0].conv2.stride == 1
    assert isinstance(backbone.layer4[2].conv2, DeformableConv2d)
    assert not isinstance(backbone.layer1[0].conv2, DeformableConv2d)


@pytest.mark.parametrize(("length", "before", "after"), [(8, 0, 1), (9, 1, 1)])
def test_tensorflows_padding_puts_the_odd_pixel_behind(length, before, after):
    conv = TensorFlowConv2d(1, 1, 3, 2, bias=False)
    features = torch.randn(1, 1, length, length)
    padded = F.pad(features, (before, after, before, after))
    torch.testing.assert_close(conv(features), F.conv2d(padded, conv.weight, stride=2))


def test_efficientnet_can_have_tensorflows_padding_everywhere():
    model = replace(upsnet.VARIANTS["efficientnet_b0_coco"].model, tensorflow_padding=True, batch_norm_eps=1e-3)
    backbone = make_backbone(model)
    assert isinstance(backbone, EfficientNetBackbone)
    strided = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (2, 2)]
    assert len(strided) == 5
    assert all(isinstance(module, TensorFlowConv2d) for module in strided)
    assert {m.eps for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1e-3}


def test_a_box_is_looked_at_in_the_level_of_its_size():
    sides = torch.tensor([10.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    boxes = torch.stack((sides * 0, sides * 0, sides - 1, sides - 1), dim=1)
    assert level_of(boxes).tolist() == [0, 1, 1, 2, 2, 3, 3]
