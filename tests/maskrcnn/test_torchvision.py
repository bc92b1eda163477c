"""The same weights in torchvision's maskrcnn_resnet50_fpn and here give the same objects and the same losses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection import maskrcnn_resnet50_fpn

from common.data.batches import Target, collate
from common.run.origin import Classes, Origin
from maskrcnn.convert import convert
from maskrcnn.network import MaskRCNN

CLASSES = [f"class {number}" for number in range(20)]
SHORT, LONG = 160, 266


@pytest.fixture(scope="module")
def theirs() -> TorchvisionMaskRCNN:
    """Random weights, spread so that many regions find something."""
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=len(CLASSES) + 1,
        min_size=SHORT,
        max_size=LONG,
        rpn_post_nms_top_n_test=200,
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
        model.roi_heads.box_predictor.cls_score.weight.mul_(4)
    return model


@pytest.fixture(scope="module")
def ours(theirs) -> MaskRCNN:
    converted = convert(theirs.state_dict())
    config = converted.config
    config.test.long_side, config.test.short_side, config.test.score_threshold = LONG, SHORT, 0.02
    config.proposals.kept = 200
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
    assert len(found) >= 50
    assert torch.equal(found.labels, expected["labels"] - 1)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-4)
    different = (found.masks != (expected["masks"][:, 0] > 0.5)).sum()
    assert different <= 1e-4 * expected["masks"].gt(0.5).sum()


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
    config.proposals.kept = 200
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
    # torchvision would move its batch norms' statistics
    for module in theirs.train().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
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
