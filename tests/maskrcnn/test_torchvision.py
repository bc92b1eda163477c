"""The same weights in torchvision's Mask R-CNN, of both versions, and here give the same objects and losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import (
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

from common.data.batches import Target, collate
from common.errors import UserError
from maskrcnn.convert import convert
from maskrcnn.network import MaskRCNN
from maskworks.published.origin import Classes, Origin

CLASSES = [f"class {number}" for number in range(20)]
SHORT, LONG, KEPT = 160, 266, 150


@pytest.fixture(scope="module", params=["v1", pytest.param("v2", marks=pytest.mark.slow)])
def theirs(request) -> TorchvisionMaskRCNN:
    """Random weights, spread so that many regions find something."""
    torch.manual_seed(0)
    build = maskrcnn_resnet50_fpn if request.param == "v1" else maskrcnn_resnet50_fpn_v2
    model = build(
        weights=None,
        weights_backbone=None,
        num_classes=len(CLASSES) + 1,
        min_size=SHORT,
        max_size=LONG,
        rpn_post_nms_top_n_test=KEPT,
        rpn_post_nms_top_n_train=KEPT,
        box_score_thresh=0.02,
        rpn_batch_size_per_image=10**6,  # all anchors and regions, so that nothing is left to chance
        box_batch_size_per_image=10**6,
        box_positive_fraction=0.5,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.fill_(0.3)
        model.rpn.head.cls_logits.weight.mul_(20)
        model.rpn.head.bbox_pred.weight.mul_(5)
        model.roi_heads.box_predictor.cls_score.weight.mul_(4 if request.param == "v1" else 40)
    return model


@pytest.fixture(scope="module")
def ours(theirs) -> MaskRCNN:
    converted = convert(theirs.state_dict())
    config = converted.config
    config.test.long_side, config.test.short_side, config.test.score_threshold = LONG, SHORT, 0.02
    config.proposals.kept = config.proposals.training_kept = KEPT
    config.proposals.samples = config.regions.samples = 10**6
    config.regions.positive_fraction = 0.5
    model = MaskRCNN(config, CLASSES)
    model.load_state_dict(converted.weights)
    return model


def photograph(seed: int, height: int, width: int) -> np.ndarray:
    small = np.random.RandomState(seed).randint(0, 256, (height // 10, width // 10, 3)).astype(np.uint8)
    return small.repeat(10, axis=0).repeat(10, axis=1)


@pytest.mark.parametrize(("seed", "size"), [(0, (200, 310)), (1, (270, 130))])
def test_the_same_objects_are_found(theirs, ours, seed, size):
    image = photograph(seed, *size)
    with torch.no_grad():
        (expected,) = theirs.eval()([torch.from_numpy(image).permute(2, 0, 1) / 255])
    (found,) = ours.eval().predict([image])
    assert len(found) >= 50 and len(expected["labels"].unique()) > 1
    assert torch.equal(found.labels, expected["labels"] - 1)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-4)
    different = (found.masks != (expected["masks"][:, 0] > 0.5)).sum()
    assert different <= 1e-4 * expected["masks"].gt(0.5).sum()


@pytest.mark.parametrize("theirs", ["v1"], indirect=True)
def test_classes_without_a_name_compete_and_are_not_reported(theirs):
    """As pycocotools ignores the ids that no category has, after torchvision has chosen the best 100."""
    image = photograph(0, 200, 310)
    with torch.no_grad():
        (expected,) = theirs.eval()([torch.from_numpy(image).permute(2, 0, 1) / 255])
    left_out = expected["labels"].unique()[::2].tolist()
    ids = tuple(number for number in range(1, len(CLASSES) + 1) if number not in left_out)
    classes = Classes(tuple(f"class {number}" for number in ids), ids, "given")
    converted = convert(theirs.state_dict(), Origin("mine.pth", classes=classes))
    config = converted.config
    config.test = replace(config.test, long_side=LONG, short_side=SHORT, score_threshold=0.02)
    config.proposals.kept = config.proposals.training_kept = KEPT
    model = MaskRCNN(config, classes.names, classes.ids)
    model.load_state_dict(converted.weights)
    (found,) = model.eval().predict([image])
    named = torch.isin(expected["labels"], torch.tensor(ids))
    assert len(expected["labels"]) == 100 > named.sum() >= 10
    assert [model.category_ids[label] for label in found.labels] == expected["labels"][named].tolist()
    torch.testing.assert_close(found.scores, expected["scores"][named], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected["boxes"][named], rtol=1e-4, atol=1e-4)


def test_the_same_mask_probabilities_come_out_of_the_head(theirs, ours):
    image = photograph(2, 200, 310)
    soft = []
    handle = theirs.roi_heads.mask_predictor.register_forward_hook(lambda *call: soft.append(call[2].sigmoid()))
    with torch.no_grad():
        (expected,) = theirs.eval()([torch.from_numpy(image).permute(2, 0, 1) / 255])
        prepared = ours.eval().preprocess(image)
        answers = ours(prepared.tensor[None])
        found = ours.detect(answers, torch.tensor([prepared.resized_size]))
        masks = ours.soft_masks(answers.features, found)
    handle.remove()
    own = soft[0][torch.arange(len(masks)), expected["labels"]]
    torch.testing.assert_close(masks, own, rtol=0, atol=1e-4)


def test_the_same_losses_are_computed(theirs, ours):
    random = np.random.RandomState(0)
    items, images, targets = [], [], []
    for seed, (height, width) in enumerate([(160, 220), (160, 200)]):  # what needs no resizing
        image = torch.from_numpy(photograph(seed, height, width)).permute(2, 0, 1)
        corner, sides = random.randint(0, 90, (4, 2)), random.randint(20, 60, (4, 2))
        boxes = torch.from_numpy(np.concatenate((corner, corner + sides), axis=1)).float()
        labels = torch.from_numpy(random.randint(0, len(CLASSES), 4))
        masks = torch.zeros(4, height, width, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1 : (y1 + y2) // 2, x1:x2] = True
        items.append((image, Target(boxes, labels, masks)))
        images.append(image / 255)
        targets.append({"boxes": boxes, "labels": labels + 1, "masks": masks.to(torch.uint8)})
    version_2 = ours.config.variant == "torchvision_r50_fpn_v2"
    theirs.train()
    for module in theirs.modules():  # of the first version the statistics are constants where its backbone is given
        if isinstance(module, torch.nn.BatchNorm2d) and not version_2:
            module.eval()
    expected = theirs(images, targets)
    losses = ours.train().losses(collate(items, 32))
    pairs = {
        "category": "loss_classifier",
        "boxes": "loss_box_reg",
        "mask": "loss_mask",
        "objectness": "loss_objectness",
        "proposal_boxes": "loss_rpn_box_reg",
    }
    assert losses.keys() == pairs.keys()
    for name, their_name in pairs.items():
        torch.testing.assert_close(losses[name], expected[their_name], rtol=1e-4, atol=1e-6)
    moved = [module for module in theirs.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    here = [module for module in ours.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(moved) == (53 + 8 + 4 + 4 if version_2 else 53)
    for module, own in zip(moved, here if version_2 else [], strict=version_2):
        torch.testing.assert_close(own.running_var, module.running_var, rtol=1e-4, atol=1e-6)


def test_faster_rcnn_of_version_2_has_no_mask_head_and_any_number_of_classes():
    with torch.device("meta"):
        state = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=4).state_dict()
        model = MaskRCNN(convert(state).config, CLASSES[:3])
    assert not model.config.model.masks
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in convert(state).weights.items()
    }


def test_a_mobile_backbone_is_refused_by_its_family():
    with torch.device("meta"):
        state = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None).state_dict()
    with pytest.raises(UserError, match=r"something else than a ResNet, backbone\.\S*0\.0.*known: Faster R-CNN"):
        convert(state, Origin("mobile.pth"))


@pytest.mark.parametrize(
    ("args", "variant"),
    [
        ({"weights": "MaskRCNN_ResNet50_FPN_Weights.COCO_V1", "weights_backbone": None}, "torchvision_r50_fpn"),
        ({"weights": None, "weights_backbone": "ResNet50_Weights.IMAGENET1K_V1"}, "torchvision_r50_fpn_imagenet"),
        ({"pretrained": True}, "torchvision_r50_fpn"),
    ],
)
def test_the_arguments_of_torchvisions_training_tell_the_epsilon(args, variant):
    with torch.device("meta"):
        state = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3).state_dict()
    frozen = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert convert(frozen, Origin("model_25.pth", {"args": args})).config.variant == variant


def test_a_model_of_torchvisions_training_on_coco_has_cocos_classes_and_ten_spare_ones():
    with torch.device("meta"):
        state = fasterrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91).state_dict()
    assert convert(state, Origin("model_25.pth", {"args": {"dataset": "coco"}})).config.model.spare_outputs == 10
    assert convert(state, Origin("model_25.pth", {"args": {"dataset": "mine"}})).config.model.spare_outputs == 0
