"""The network: any number of people, chunks like all at once; what gets a gradient."""

import numpy as np
import pytest
import torch
from torchvision.models import resnet50

from common.data.batches import Batch, Target
from common.errors import UserError
from pose2seg import Pose2Seg
from pose2seg.backbone import Backbone
from pose2seg.config import Model
from pose2seg.geometry import letterbox_matrix, moved_joints
from tests.pose2seg.people import skeletons, small_config, small_model
from tests.tiny import assert_folding_changes_nothing, photograph


@pytest.fixture(scope="module")
def model() -> Pose2Seg:
    return small_model()


def test_nobody_gives_nothing(model):
    nobody = np.zeros((0, 17, 3), np.float32)
    empty, full = model.predict([photograph(50, 60)] * 2, [nobody, skeletons(1, 50, 60).numpy()])
    assert len(empty) == 0
    assert empty.masks.shape == (0, 50, 60)
    assert empty.to_coco(1, (1,)) == []
    assert (len(full), full.scores.tolist(), full.labels.tolist()) == (1, [1], [0])


def test_every_person_gets_a_mask_in_order_with_the_given_score_and_joints(model):
    joints = skeletons(5, 80, 90)
    joints[2] = 0  # of this one nothing is known
    result = model.predict([photograph(80, 90)], [joints], [torch.arange(5) / 10])[0]
    assert result.scores.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert result.keypoints.equal(joints)
    alone = model.predict([photograph(80, 90)], [joints[3:4]])[0]
    assert (alone.masks[0] != result.masks[3]).float().mean() < 0.001


def test_chunks_of_people_give_what_all_at_once_give(model):
    joints, image = skeletons(7, 80, 90), photograph(80, 90)
    masks = []
    for together in (1, 3, 100):
        model.config.test.people_at_once = together
        masks.append(model.predict([image], [joints])[0].masks)
    assert masks[0].any()
    assert (masks[0] != masks[1]).float().mean() < 0.001
    assert (masks[0] != masks[2]).float().mean() < 0.001


def test_images_predicted_together_give_what_each_gives_alone(model):
    images = [photograph(60, 80), photograph(90, 40, seed=1)]
    joints = [skeletons(2, 60, 80), skeletons(3, 90, 40)]
    for together, image, people in zip(model.predict(images, joints), images, joints, strict=True):
        assert (together.masks != model.predict([image], [people])[0].masks).float().mean() < 0.001


def test_other_joints_are_refused(model):
    with pytest.raises(UserError, match=r"expected \[people, 17, 3\]"):
        model.predict([photograph(20, 20)], [np.zeros((2, 14, 3))])
    with pytest.raises(UserError, match="2 photographs"):
        model.predict([photograph(20, 20)] * 2, [skeletons(1, 20, 20)])


def training_batch(counts: list[int]) -> Batch:
    torch.manual_seed(0)
    targets = []
    for number, count in enumerate(counts):
        joints = moved_joints(skeletons(count, 70, 90, number), letterbox_matrix(70, 90, 96))
        masks = torch.zeros(count, 70, 90, dtype=torch.bool)
        masks[:, 20:50, 30:60] = True
        targets.append(Target(torch.zeros(count, 4), torch.zeros(count), masks, keypoints=joints))
    images = torch.randint(0, 256, (len(counts), 3, 96, 96), dtype=torch.uint8)
    return Batch(images, torch.tensor([[96, 96]] * len(counts)), targets)


@pytest.mark.parametrize("counts", [[1], [2, 3], [1, 30]])
def test_all_but_the_unused_levels_get_a_gradient(counts):
    model = small_model().train()
    model.losses(training_batch(counts))["mask"].backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {f"fpn.output.{level}.{part}" for level in (1, 2, 3) for part in ("weight", "bias")}
    assert all(not parameter.requires_grad for name, parameter in model.named_parameters() if name in without)


def test_the_loss_is_the_mean_cross_entropy_against_the_masks(monkeypatch):
    model = small_model()
    logits = torch.tensor([2.0, -1.0])[None, :, None, None].repeat(2, 1, 32, 32)
    monkeypatch.setattr(model, "segment", lambda features, windows: logits)
    batch = training_batch([2])
    batch.targets[0].masks[:] = False
    background = -torch.log_softmax(logits[0, :, 0, 0], dim=0)[0]
    assert model.losses(batch)["mask"].item() == pytest.approx(background.item(), rel=1e-5)


def test_half_precision_does_not_reach_the_geometry():
    model, joints = small_model(), skeletons(4, 96, 96)
    exact = model.windows(joints)
    with torch.autocast("cpu", torch.bfloat16):
        same = model.windows(joints)
        logits = model(torch.rand(1, 3, 96, 96), [same])
    assert same.matrices.equal(exact.matrices)
    assert same.joints.equal(exact.joints)
    assert logits.isfinite().all()


def test_folding_batch_norms_changes_nothing():
    torch.manual_seed(0)
    config = small_config()
    config.model.norm = "batch"
    model = Pose2Seg(config).eval()
    images, windows = torch.rand(1, 3, 96, 96), [model.windows(skeletons(2, 96, 96))]
    assert_folding_changes_nothing(model, lambda: model(images, windows)[None])


def test_the_backbone_is_torchvisions_but_for_where_it_halves():
    torch.manual_seed(0)
    ours, theirs = Backbone(Model()).eval(), resnet50().eval()
    ours.load_state_dict({name: value for name, value in theirs.state_dict().items() if not name.startswith("fc.")})
    for stage in (ours.layer2, ours.layer3, ours.layer4):
        assert stage[0].conv1.stride == (2, 2)
        assert stage[0].conv2.stride == (1, 1)
        stage[0].conv1.stride, stage[0].conv2.stride = (1, 1), (2, 2)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pooled = theirs.fc(ours(image)[-1].mean(dim=(2, 3)))
        torch.testing.assert_close(pooled, theirs(image), rtol=1e-4, atol=1e-4)
