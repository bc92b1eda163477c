"""Schedules by their formulas, parameter groups by their members, the moving average by hand."""

import math
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.run.optimization import (
    MovingAverage,
    clip_gradients,
    group_as_set,
    load_optimizer,
    lr_factor,
    make_optimizer,
    parameter_groups,
    set_learning_rate,
)
from common.run.settings import Optimizer, Schedule


def test_steps_drop_after_whole_epochs():
    schedule = Schedule("step", [2, 3], 0.1, warmup=0)
    factors = [lr_factor(step, 10, 40, schedule) for step in (0, 19, 20, 29, 30)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_warm_up_is_linear_from_its_ratio():
    schedule = Schedule("step", [], 0.1, warmup=500, warmup_ratio=0.01)
    assert [lr_factor(step, 10, 999, schedule) for step in (0, 250, 500)] == pytest.approx([0.01, 0.505, 1])


def test_cosine_ends_at_zero():
    schedule = Schedule("cosine", warmup=0)
    assert lr_factor(0, 10, 100, schedule) == 1
    assert lr_factor(50, 10, 100, schedule) == pytest.approx(0.5)
    assert lr_factor(100, 10, 100, schedule) == pytest.approx(0, abs=1e-12)
    warm = Schedule("cosine", warmup=50, warmup_ratio=0.0)
    assert lr_factor(25, 10, 100, warm) == pytest.approx(0.5 * 0.5 * (1 + math.sqrt(0.5)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def groups_of(net, settings):
    return parameter_groups(net, settings, group_as_set)


def test_milestones_may_be_counted_in_steps():
    schedule = Schedule("step", [15, 25], 0.1, unit="steps", warmup=0)
    factors = [lr_factor(step, 10, 40, schedule) for step in (14, 15, 24, 25)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01])


def test_biases_may_learn_faster():
    net = Net()
    shares = {id(p): g["lr_scale"] for g in groups_of(net, Optimizer(bias_lr_scale=2.0)) for p in g["params"]}
    assert shares[id(net.head.bias)] == 2
    assert shares[id(net.head.weight)] == 1


def test_a_package_may_say_for_each_parameter_how_it_learns():
    net = Net()
    optimizer = make_optimizer(net, Optimizer(lr=0.1), lambda name, _, settings: (float("head" in name), 0.25))
    assert [(g["lr_scale"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [
        (0.0, 0.25, 4),
        (1.0, 0.25, 2),
    ]


def test_groups_separate_the_backbone_and_what_does_not_decay():
    settings = Optimizer(weight_decay=0.5, norm_and_bias_decay=False, backbone_lr_scale=0.1)
    net = Net()
    groups = {(g["lr_scale"], g["weight_decay"]): {id(p) for p in g["params"]} for g in groups_of(net, settings)}
    assert groups == {
        (0.1, 0.5): {id(net.backbone[0].weight)},
        (0.1, 0.0): {id(net.backbone[0].bias), id(net.backbone[1].weight), id(net.backbone[1].bias)},
        (1.0, 0.5): {id(net.head.weight)},
        (1.0, 0.0): {id(net.head.bias)},
    }


def test_optimizers_take_their_settings_and_each_group_its_share_of_a_new_rate():
    sgd = make_optimizer(Net(), Optimizer(name="sgd", lr=0.1, momentum=0.8, backbone_lr_scale=0.25))
    assert {(group["lr"], group["momentum"]) for group in sgd.param_groups} == {(0.1, 0.8)}
    set_learning_rate(sgd, 0.5)
    assert sorted({(group["lr_scale"], group["lr"]) for group in sgd.param_groups}) == [(0.25, 0.125), (1, 0.5)]
    adamw = make_optimizer(Net(), Optimizer(name="adamw", lr=0.2, betas=(0.7, 0.9)))
    assert {(group["lr"], group["betas"]) for group in adamw.param_groups} == {(0.2, (0.7, 0.9))}


def test_apexs_optimizers_get_the_same(monkeypatch):
    fused = SimpleNamespace(FusedSGD=torch.optim.SGD, FusedAdam=torch.optim.Adam)
    monkeypatch.setitem(sys.modules, "apex", SimpleNamespace(optimizers=fused))
    (group,) = make_optimizer(nn.Linear(1, 1), Optimizer(name="apex_sgd", lr=0.1, momentum=0.8)).param_groups
    assert (group["lr"], group["momentum"]) == (0.1, 0.8)
    (group,) = make_optimizer(nn.Linear(1, 1), Optimizer(name="apex_adam", lr=0.2, betas=(0.7, 0.9))).param_groups
    assert (group["lr"], group["betas"]) == (0.2, (0.7, 0.9))


def test_gradients_longer_than_allowed_are_shortened_and_those_of_frozen_weights_left_alone():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[2].requires_grad_(False)
    for layer, slope in zip(net, (3.0, 4.0, 12.0), strict=True):
        layer.weight.grad = torch.full((1, 1), slope)
    assert clip_gradients(net, 0.0) is None
    assert clip_gradients(net, 2.5).item() == 5
    assert [layer.weight.grad.item() for layer in net] == pytest.approx([1.5, 2, 12], rel=1e-4)


def test_apex_is_asked_for_clearly_when_it_is_not_installed():
    with pytest.raises(UserError, match="needs apex, which is not installed"):
        make_optimizer(Net(), Optimizer(name="apex_sgd"))


def test_the_moving_average_follows_fast_at_first_and_then_slowly():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = MovingAverage(model, 0.9)
    nn.init.constant_(model.weight, 2.0)
    average.update(model, 0)  # decay 1/10
    assert average.model.weight.item() == pytest.approx(0.1 * 1 + 0.9 * 2)
    average.update(model, 10_000)  # decay 0.9
    assert average.model.weight.item() == pytest.approx(0.9 * 1.9 + 0.1 * 2)
    assert not average.model.weight.requires_grad
    assert math.isclose(model.weight.item(), 2.0)


def test_counts_are_copied_into_the_moving_average():
    model = nn.BatchNorm2d(1)
    average = MovingAverage(model, 0.9)
    model(torch.rand(2, 1, 3, 3))
    average.update(model, 0)
    assert average.model.num_batches_tracked.item() == 1


def test_a_restored_optimizer_goes_on_alike_in_any_memory_layout():
    def net() -> nn.Conv2d:
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)

    def step(model: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        model(torch.ones(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    whole, settings = net(), Optimizer(name="adamw", lr=0.1)
    optimizer = make_optimizer(whole, settings)
    step(whole, optimizer)
    saved = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    for number, values in optimizer.state_dict()["state"].items():  # a file keeps values, not layouts
        saved["state"][number] = {name: value.clone().contiguous() for name, value in values.items()}
    resumed = net()
    resumed.load_state_dict({name: value.clone().contiguous() for name, value in whole.state_dict().items()})
    other = make_optimizer(resumed, settings)
    load_optimizer(other, saved)
    step(whole, optimizer)
    step(resumed, other)
    assert torch.equal(whole.weight, resumed.weight)
