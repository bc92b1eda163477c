"""Optimizer, learning-rate schedule, gradient clipping, and the moving average of the weights."""

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.run.model import Learner
from common.run.settings import Optimizer, Schedule

Group = tuple[float, float]  # a parameter's share of the learning rate, and its weight decay
ParameterGroup = Callable[[str, nn.Parameter, Optimizer], Group]


def make_optimizer(
    model: Learner, settings: Optimizer, parameter_group: ParameterGroup | None = None
) -> torch.optim.Optimizer:
    groups = parameter_groups(model, settings, parameter_group or group_as_set)
    fused = all(p.device.type in ("cuda", "cpu") for group in groups for p in group["params"])
    if settings.name == "sgd":
        return torch.optim.SGD(groups, settings.lr, settings.momentum, fused=fused)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, settings.lr, settings.betas, fused=fused)
    try:
        from apex import optimizers as apex_optimizers
    except ImportError as error:
        raise UserError(
            f"--optimizer.name {settings.name} needs apex, which is not installed; use sgd or adamw"
        ) from error
    if settings.name == "apex_sgd":
        optimizer: torch.optim.Optimizer = apex_optimizers.FusedSGD(groups, settings.lr, settings.momentum)
    else:
        optimizer = apex_optimizers.FusedAdam(groups, settings.lr, betas=settings.betas)
    return optimizer


def group_as_set(name: str, parameter: nn.Parameter, settings: Optimizer) -> Group:
    """What the settings say of a parameter."""
    scale = settings.backbone_lr_scale if name.startswith("backbone.") else 1.0
    if name.endswith("bias"):
        scale *= settings.bias_lr_scale
    decays = settings.norm_and_bias_decay or parameter.ndim > 1
    return scale, settings.weight_decay if decays else 0.0


def parameter_groups(model: Learner, settings: Optimizer, parameter_group: ParameterGroup) -> list[dict[str, Any]]:
    """Trained parameters by learning rate and weight decay; each group remembers its share of the learning rate."""
    groups: dict[Group, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(parameter_group(name, parameter, settings), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer's state in its parameters' memory layout, which files don't keep.

    Fused optimizers walk through parameter and state side by side in memory: with another layout they would pair
    the wrong numbers, and say nothing.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def lr_factor(step: int, steps_per_epoch: int, total_steps: int, schedule: Schedule, share: float = 1.0) -> float:
    """What the learning rate is multiplied by at a step, warm-up included; of a run cut to a `share` of its steps."""
    factor, warmup = 1.0, round(schedule.warmup * share)
    if step < warmup:
        factor = 1 - (1 - step / warmup) * (1 - schedule.warmup_ratio)
    if schedule.name == "cosine":
        return factor * 0.5 * (1 + math.cos(math.pi * step / total_steps))
    length = steps_per_epoch if schedule.unit == "epochs" else 1
    passed = sum(step >= milestone * length * share for milestone in schedule.milestones)
    return factor * schedule.factor**passed


class MovingAverage:
    """An exponential moving average of a model's weights; it follows faster in the first steps, and in short runs."""

    def __init__(self, model: Learner, decay: float):
        self.model, self.decay = deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: Learner, step: int, share: float = 1.0) -> None:
        """After a step of a run that is cut to a `share` of its steps: the average is over as much fewer."""
        decay = min(max(0.0, 1 - (1 - self.decay) / share), (1 + step) / (10 + step))
        ours, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1 - decay)
        for name in ours.keys() - set(floats):
            ours[name].copy_(theirs[name])


def clip_gradients(model: Learner, largest: float) -> Tensor | None:
    if not largest:
        return None
    return nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], largest)
