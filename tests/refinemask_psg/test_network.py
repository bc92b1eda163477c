"""The network's three verbs, on small inputs and in every variant."""

from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.data.batches import Batch, Target, collate
from common.errors import UserError
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from common.run.optimization import parameter_groups
from refinemask_psg import VARIANTS, RefineMask, load
from refinemask_psg.box_head import StageAnswers
from refinemask_psg.config import Config, Model
from refinemask_psg.losses import box_losses
from refinemask_psg.network import ASSISTANT
from refinemask_psg.rois import pool
from refinemask_psg.weights import initialise, parameter_group
from tests.tiny import assert_folding_changes_nothing, photograph

NAMES = ("circle", "square", "star")


def small(**changes: object) -> Config:
    """The variant for the built-in data set, narrower."""
    config = deepcopy(VARIANTS["shapes"])
    config.model = replace(config.model, box_channels=32, mask_channels=24, **changes)
    config.test = replace(config.test, long_side=96, short_side=96, score_threshold=0.0, max_instances=6)
    return config


def narrowed(variant: str) -> Config:
    """A published variant with heads that a test can afford; its backbone as it is."""
    config = deepcopy(VARIANTS[variant])
    narrow = {"fpn_channels": 32, "box_channels": 32, "mask_channels": 24, "semantic_channels": 32}
    config.model = replace(config.model, **narrow, proposals_before_nms=20, proposals=10, box_samples=16)
    config.test = replace(config.test, long_side=64, short_side=64, score_threshold=0.0, max_instances=3)
    return config


def model_of(config: Config) -> RefineMask:
    torch.manual_seed(0)
    return RefineMask(config, NAMES)


def target(boxes: list[list[int]], size: int = 64, outlines: bool = True) -> Target:
    masks = torch.zeros(len(boxes), size, size, dtype=torch.bool)
    polygons = []
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        polygons.append([np.array(corners, np.float32)] if outlines else [])
    labels = torch.arange(len(boxes)) % len(NAMES)
    semantic = torch.zeros(size, size, dtype=torch.uint8)
    return Target(torch.tensor(boxes).float().view(-1, 4), labels, masks, polygons=polygons, semantic=semantic)


def batch_of(*targets: Target, size: int = 64) -> Batch:
    images = [torch.from_numpy(photograph(size, size, seed)).permute(2, 0, 1) for seed in range(len(targets))]
    return collate(list(zip(images, targets, strict=True)), 32)


@pytest.fixture(scope="module")
def model() -> RefineMask:
    return model_of(small()).eval()


def test_predictions_lie_in_the_photograph(model):
    found = model.predict([photograph(50, 80)])[0]
    assert len(found) == 6
    assert found.masks.shape == (6, 50, 80)
    assert (found.boxes[:, 2:] <= torch.tensor([80.0, 50.0]) + 1e-3).all()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_nothing_found_is_an_empty_result(model):
    config = replace(model.config, test=replace(model.config.test, score_threshold=1.1))
    strict = RefineMask(config, NAMES).eval()
    found = strict.predict([photograph(40, 40)])[0]
    assert len(found) == 0
    assert found.masks.shape == (0, 40, 40)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if not name.startswith("psg")])
def test_every_variant_trains_and_predicts(variant):
    config = narrowed(variant)
    model = model_of(config).train()
    batch = batch_of(target([[4, 4, 40, 50], [30, 30, 60, 60]]))
    losses = model.losses(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert {name.removeprefix(ASSISTANT) for name in losses} == {name for name in losses if ASSISTANT not in name}
    assert any(name.startswith(ASSISTANT) for name in losses) == config.model.composite
    found = len(model.eval().predict([photograph(40, 60)])[0])
    assert found == 3 or (config.model.conventions == "detectron2" and found == 2)  # it ranks other proposals first


def test_what_training_calls_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def compiled(function, *_, **__):
        return lambda *arguments: called.append(function.__self__) or function(*arguments)

    monkeypatch.setattr(torch, "compile", compiled)
    model = model_of(small()).train()
    model.compile()
    model.losses(batch_of(target([[4, 4, 40, 50]])))
    assert called == [model.backbone, model.fpn, model.rpn]


def test_the_assistants_losses_weigh_half():
    """With both pyramids the same, by making both backbones the same, its proposal losses are half the lead's."""
    config = narrowed("mask_rcnn_cbv2_swin_tiny")
    config.model = replace(config.model, drop_path=0.0, rpn_sampling="even", sampling="even")
    model = model_of(config).train()
    model.pyramids = lambda images: [RefineMask.pyramids(model, images)[-1]] * 2
    losses = model.losses(batch_of(target([[4, 4, 40, 50]])))
    for name in ("rpn_objectness", "rpn_box", "class", "box", "mask"):
        assert losses[ASSISTANT + name].item() == pytest.approx(losses[name].item() / 2)


BATCHES = {
    "no objects": [target([]), target([])],
    "no objects in one image": [target([]), target([[3, 3, 30, 30]])],
    "a box without extent": [target([[5, 5, 5, 9], [3, 3, 30, 30]])],
    "objects given as RLE": [target([[3, 3, 30, 30]], outlines=False)],
    "many objects in one place": [target([[3, 3, 30, 30]] * 40)],
}


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("head", ["refine", "plain"])
def test_losses_and_gradients_are_finite(case, head):
    model = model_of(small(mask_head=head)).train()
    losses = model.losses(batch_of(*BATCHES[case]))
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name  # DDP needs every parameter in every step
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("changes", [{"sampling": "hard"}, {"box_loss": "giou"}, {"box_class_agnostic": True}])
def test_the_other_recipes_train(changes):
    losses = model_of(small(**changes)).train().losses(batch_of(target([[3, 3, 30, 30]])))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_half_precision_moves_no_box(model):
    """Regions keep their coordinates: a bfloat16 counts in steps of 4 beyond 512."""
    regions = torch.tensor([[0.0, 601.3, 2.2, 640.9, 60.7]])
    pyramid = [torch.randn(1, 1, 20, 200, generator=torch.Generator().manual_seed(0))] * 4
    exact, half = pool(pyramid, regions, 7, 56), pool([each.bfloat16() for each in pyramid], regions, 7, 56)
    torch.testing.assert_close(half.float(), exact, rtol=2e-2, atol=2e-2)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(model.predict([photograph(50, 80)])[0]) == 6
        losses = model_of(small()).train().losses(batch_of(target([[3, 3, 30, 30]])))
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_semantic_head_is_trained_with_the_detector():
    model = model_of(small(semantic_head=True, semantic_channels=32)).train()
    losses = model.losses(batch_of(target([[3, 3, 30, 30]])))
    losses["semantic"].backward()
    assert model.semantic_head.outconv.weight.grad.abs().sum() > 0


def test_padding_is_black_where_the_original_pads_first():
    config = small()
    assert RefineMask(config, NAMES).preprocess(photograph(10, 96)).tensor[:, -1].abs().max() == 0
    config.model.pad_before_normalising = True
    padded = RefineMask(config, NAMES).preprocess(photograph(10, 96)).tensor[:, -1, 0]
    expected = -torch.tensor(config.model.mean) / torch.tensor(config.model.std)
    torch.testing.assert_close(padded, expected)


def test_folded_batch_norms_change_nothing():
    model = model_of(narrowed("refinemask_r50_1x")).eval()
    images = torch.randn(1, 3, 64, 64)
    assert_folding_changes_nothing(model.backbone, lambda: model.backbone(images)[0])


def test_norms_and_position_tables_do_not_decay_but_biases_do():
    config = VARIANTS["mask_rcnn_cbv2_swin_tiny"]
    with torch.device("meta"):
        model = RefineMask(config, NAMES)
    groups = parameter_groups(model, config.optimizer, parameter_group)
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    block = model.backbone.lead.layers[0].blocks[0]
    assert decay[id(block.norm1.weight)] == decay[id(block.attn.relative_position_bias_table)] == 0
    assert decay[id(block.attn.qkv.weight)] == decay[id(block.attn.qkv.bias)] == 0.05


def test_a_checkpoint_is_loaded_as_it_was(model, tmp_path):
    file = tmp_path / "model.safetensors"
    checkpoint = Checkpoint("refinemask_psg", to_dict(model.config), NAMES, (1, 2, 3), model.state_dict())
    save(file, checkpoint)
    image = photograph(40, 40)
    found, wanted = load(file).predict([image])[0], model.predict([image])[0]
    torch.testing.assert_close(found.scores, wanted.scores)  # another memory format, other sums
    assert torch.equal(found.masks, wanted.masks)


def test_a_plain_detectors_weights_start_a_refining_cascade(tmp_path, capsys):
    """As refine_caslm starts from CBNetV2's: the heads that the file lacks start anew."""
    plain = model_of(small(mask_head="plain"))
    file = tmp_path / "plain.safetensors"
    save(file, Checkpoint("refinemask_psg", to_dict(plain.config), NAMES, (1, 2, 3), plain.state_dict()))
    stages = {"box_ious": (0.5, 0.6), "box_stds": ((0.1,) * 4,) * 2, "box_stage_weights": (1.0, 0.5)}
    model = model_of(small(**stages))
    initialise(model, str(file))
    assert "mask_heads" in capsys.readouterr().err
    assert torch.equal(model.box_heads[0].first.weight, plain.box_heads[0].first.weight)
    assert torch.equal(model.fpn.lateral[0].weight, plain.fpn.lateral[0].weight)


def test_both_swins_start_from_an_imagenet_classifier(tmp_path):
    config = narrowed("mask_rcnn_cbv2_swin_tiny")
    model = model_of(config)
    body = {
        name.removeprefix("backbone.assisting."): torch.randn_like(value)
        for name, value in model.state_dict().items()
        if name.startswith("backbone.assisting.")
    }
    file = tmp_path / "swin.pth"
    torch.save({"model": body | {"head.weight": torch.zeros(2, 2), "norm.weight": torch.zeros(2)}}, file)
    initialise(model, str(file))
    expected = body["layers.1.blocks.0.attn.qkv.weight"]
    assert torch.equal(model.backbone.assisting.layers[1].blocks[0].attn.qkv.weight, expected)
    assert torch.equal(model.backbone.lead.layers[1].blocks[0].attn.qkv.weight, expected)


def test_a_network_in_the_manner_of_caffe_gets_bgr_and_halves_in_its_1x1_convolutions():
    image = photograph(40, 56)
    caffe = {"channels": "bgr", "mean": (1.0, 2.0, 3.0), "std": (1.0, 1.0, 2.0)}
    tensor = model_of(small(**caffe)).preprocess(image).tensor
    corner = image[0, 0].astype(float)  # the photograph's corner stays its own when it is scaled
    assert tensor[:, 0, 0].tolist() == pytest.approx([corner[2] - 1, corner[1] - 2, (corner[0] - 3) / 2], abs=1)
    config = narrowed("mmdet_cascade_mask_rcnn_r50_caffe_1x")
    strides = [(stage[0].conv1.stride, stage[0].conv2.stride) for stage in model_of(config).backbone.stages()[1:]]
    assert strides == [((2, 2), (1, 1))] * 3


def test_a_last_stage_without_classes_draws_the_same_mask_for_each():
    head = model_of(small(mask_final_agnostic=True)).mask_heads[0]
    assert head.final.weight.shape[0] == 1
    pyramid = [torch.randn(1, 64, 64 // 2**level, 64 // 2**level) for level in range(5)]
    regions = torch.tensor([[0.0, 8, 8, 40, 40]] * 3)
    for stage in head.stages:  # that of the earlier stages, which do know classes, would differ
        stage.logits.weight.data[:] = stage.logits.weight.data[:1]
    finest = head(pyramid, regions, torch.tensor([0, 1, 2])).stages[-1]
    assert finest.shape == (3, 1, 112, 112)
    torch.testing.assert_close(finest[0], finest[2])


def test_the_box_loss_of_cityscapes_is_quadratic_below_one():
    logits, regions = torch.zeros(1, 3), torch.tensor([[0.0, 0, 0, 10, 10]])
    stage = StageAnswers(regions, logits, torch.tensor([[[0.5, 3.0, 0.0, 0.0]] * 2]))
    sampled = [SimpleNamespace(labels=torch.tensor([0]), true_boxes=torch.tensor([[0.0, 0, 10, 10]]))]
    for kind, expected in (("l1", 3.5), ("smooth_l1", 0.5**2 / 2 + 2.5)):
        loss = box_losses(stage, sampled, 0, Model(box_loss=kind, box_stds=((1.0,) * 4,)))[1]
        assert loss.item() == pytest.approx(expected)


def test_the_semantic_head_starts_from_u2net(tmp_path):
    config = small(semantic_head=True, semantic_channels=32)
    donor = model_of(config).semantic_head.state_dict()
    torch.save(
        {name: value + 1 for name, value in donor.items()} | {"stage1.x": torch.zeros(1)}, tmp_path / "u2net.pth"
    )
    config.model.semantic_weights = str(tmp_path / "u2net.pth")
    model = model_of(config)
    initialise(model, "")
    assert torch.equal(
        model.semantic_head.stage3.rebnconvin.conv_s1.weight, donor["stage3.rebnconvin.conv_s1.weight"] + 1
    )
    with pytest.raises(UserError, match="no semantic head"):
        initialise(model_of(small(semantic_weights="u2net.pth")), "")


def test_the_default_is_small():
    assert sum(parameter.numel() for parameter in model_of(VARIANTS["shapes"]).parameters()) < 7e6
    assert Model().box_samples == 512
