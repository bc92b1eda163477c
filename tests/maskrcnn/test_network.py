"""Every variant builds, learns and finds; what each part must do whatever its weights."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.batches import Target, collate
from common.data.coco import CocoDataset
from maskrcnn import demo
from maskrcnn.config import VARIANTS, Config
from maskrcnn.heads import MaskHead
from maskrcnn.network import MaskRCNN
from maskrcnn.postprocess import Detections, strongest
from maskrcnn.proposals import Proposed, best_of_batch
from tests.tiny import assert_folding_changes_nothing

CLASSES = ("a", "b", "c")


def small(variant: str) -> Config:
    """The variant on small photographs, with few regions."""
    config = deepcopy(VARIANTS[variant])
    config.test.long_side, config.test.short_side, config.test.score_threshold = 96, 64, 0.0
    config.test.max_instances = 5
    config.proposals.kept = config.proposals.training_kept = config.proposals.after_nms = 20
    config.proposals.training_after_nms = 20
    config.regions.samples = 16
    return config


def batch_of(config: Config):
    items = []
    for size in ((64, 96), (70, 64)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        boxes = torch.tensor([[4.0, 4, 40, 50], [30, 10, 60, 60]])
        masks = torch.zeros(2, *size, dtype=torch.bool)
        masks[:, 10:40, 10:30] = True
        outline = np.array([[4, 4], [40, 4], [20, 50]], np.float32)
        items.append((image, Target(boxes, torch.tensor([0, 2]), masks, polygons=[[outline], []])))
    return collate(items, config.conventions.size_divisor)


# their layers and conventions are met in others too: quickly, one of each kind learns and finds
ALIKE = {
    "detectron2_r50_c4",
    "detectron2_x101_32x8d_fpn",
    "mmdet_r50_caffe_c4",
    "mmdet_r50_caffe_dc5",
    "mmdet_r50_caffe_fpn",
    "mmdet_r50_fpn_gn",
    "mmdet_x101_32x8d_fpn",
    "r101_fpn_1x",
    "torchvision_r50_fpn_imagenet",
}


@pytest.mark.parametrize(
    "variant", [pytest.param(each, marks=[pytest.mark.slow] if each in ALIKE else []) for each in VARIANTS]
)
def test_every_variant_learns_and_finds(variant):
    torch.manual_seed(0)
    config = small(variant)
    config.model.fpn_channels = config.model.box_channels = config.model.mask_channels = 64
    model = MaskRCNN(config, CLASSES)
    losses = model.train().losses(batch_of(config))
    assert set(losses) == {"objectness", "proposal_boxes", "category", "boxes", "mask"}
    assert all(torch.isfinite(value) for value in losses.values())
    sum(losses.values()).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert ("backbone.conv1.weight" in trained) == (variant in ("shapes", "small"))
    image = np.random.RandomState(0).randint(0, 256, (48, 80, 3)).astype(np.uint8)
    (found,) = model.eval().predict([image])
    # before any training the boxes have no extent, and those Detectron2 drops; untrained DC5 features overflow
    assert (0 if config.conventions.fitted or config.model.neck == "dc5" else 1) <= len(found) <= 5
    assert found.masks.shape == (len(found), 48, 80)
    assert (found.scores.diff() <= 0).all()
    assert (found.boxes >= 0).all()
    # an inclusive box that is scaled up ends up to a pixel beyond the border, as in the original
    beyond = 1 if config.conventions.inclusive_corners else 1e-3
    assert (found.boxes <= torch.tensor([80, 48, 80, 48]) + beyond).all()
    assert (found.labels < len(CLASSES)).all()


@pytest.mark.parametrize(
    ("variant", "deformable"),
    [("r50_c4_1x", "none"), ("mmdet_r50_fpn", "modulated"), ("torchvision_r50_fpn_v2", "none")],
)
def test_folded_batch_norms_change_nothing(variant, deformable):
    torch.manual_seed(0)
    config = small(variant)
    config.model.deformable = deformable
    model, c4 = MaskRCNN(config, CLASSES).eval(), config.model.neck == "c4"
    images, regions = torch.randn(1, 3, 64, 64), torch.randn(2, *((1024, 14, 14) if c4 else (256, 7, 7)))

    def answers():
        head = model.region_stage(regions) if c4 else model.box_head.features(regions)
        stages = model.backbone(images)
        return [*stages, *model.pyramid(stages), head, model.mask_head(head if c4 else regions)]

    assert_folding_changes_nothing(model, answers)


def test_images_without_objects_train():
    config = small("shapes")
    model = MaskRCNN(config, CLASSES).train()
    empty = Target(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 96, dtype=torch.bool), polygons=[]
    )
    losses = model.losses(collate([(torch.zeros(3, 64, 96, dtype=torch.uint8), empty)], 32))
    sum(losses.values()).backward()
    assert float(losses["mask"].detach()) == float(losses["boxes"].detach()) == 0
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_without_masks_it_finds_boxes():
    config = small("shapes")
    config.model.masks = False
    model = MaskRCNN(config, CLASSES)
    assert set(model.losses(batch_of(config))) == {"objectness", "proposal_boxes", "category", "boxes"}
    (found,) = model.eval().predict([np.zeros((48, 80, 3), np.uint8)])
    assert found.masks is None
    assert "segmentation" not in found.to_coco(1, (1, 2, 3))[0]


@pytest.mark.parametrize("found", [0, 1, 5, 40])
def test_of_many_classes_only_those_found_get_masks(found):
    torch.manual_seed(0)
    head = MaskHead(8, replace(VARIANTS["shapes"].model, mask_channels=32, mask_depth=1), 300, False).eval()
    regions, channels = torch.randn(found, 8, 6, 6), torch.randint(0, 300, (found,))
    with torch.inference_mode():
        expected = head(regions)[torch.arange(found), channels]
        head.logits.forward = None  # which computes all
        torch.testing.assert_close(head.of_channels(regions, channels), expected)


def test_a_threshold_above_all_scores_leaves_an_empty_result():
    config = small("shapes")
    config.test.score_threshold = 1.0
    (found,) = MaskRCNN(config, CLASSES).eval().predict([np.zeros((48, 80, 3), np.uint8)])
    assert (len(found), found.masks.shape) == (0, (0, 48, 80))
    assert np.array_equal(demo.overlay(np.full((48, 80, 3), 7, np.uint8), found), np.full((48, 80, 3), 7))


def test_the_cap_over_a_batch_takes_the_best_wherever_they_are():
    boxes = torch.arange(8.0).reshape(2, 4)
    images = [Proposed(boxes, torch.tensor([0.2, 0.9])), Proposed(boxes, torch.tensor([0.8, 0.7]))]
    left = best_of_batch(images, 3)
    assert [image.scores.tolist() for image in left] == [[pytest.approx(0.9)], [pytest.approx(0.8), pytest.approx(0.7)]]


def test_detectron_keeps_all_that_tie_with_the_last_one():
    found = Detections(torch.zeros(4, 4), torch.tensor([0.5, 0.9, 0.5, 0.1]), torch.tensor([0, 0, 1, 1]))
    assert strongest(found, 2, VARIANTS["r50_fpn_1x"].conventions).scores.tolist() == pytest.approx([0.5, 0.9, 0.5])
    assert len(strongest(found, 2, VARIANTS["mmdet_r50_fpn"].conventions).scores) == 2


def test_the_demo_shows_confident_objects_in_its_colours():
    torch.manual_seed(0)
    (found,) = MaskRCNN(small("shapes"), CLASSES).eval().predict([np.zeros((48, 80, 3), np.uint8)])
    found.scores = torch.linspace(0.9, 0.5, len(found))
    assert (demo.select(found).scores > 0.7).all()
    assert len(demo.select(found)) < len(found)
    picture = demo.overlay(np.zeros((48, 80, 3), np.uint8), found)
    assert picture.any()
    # label 1: 2^25-1, 2^15-1, 2^21-1 modulo 255
    assert demo.colours(torch.tensor([0, 1])).tolist() == [[0, 0, 0], [1, 127, 31]]


def test_a_union_of_data_sets_trains_on_both(tmp_path):
    from maskworks import shapes

    made = [shapes.ensure(split, seed=5, count=3, cache=tmp_path) for split in ("train", "val")]
    union = CocoDataset([each.images for each in made], [each.instances for each in made])
    assert len(union) == 6
    assert len({union.path(index) for index in range(6)}) == 6
    assert all(len(union.polygons(index)) == len(union[index].labels) for index in range(6))
