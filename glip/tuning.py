"""Which parameters are trained, and how fast: the published tuning modes and learning rates."""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from common.errors import UserError
from common.run.optimization import Group, ParameterGroup
from common.run.settings import Optimizer, Schedule
from glip.config import Config, Tuning
from glip.network import GLIP

LAST_LAYERS = ("head.box.", "head.centerness.", "head.alignment.")
TRAINED = {
    "full": ("",),
    "frozen_language": ("backbone.", "pyramid.", "head.", "word_guess."),
    "linear_probe": LAST_LAYERS,
    "language": ("text.bert.",),
    "prompt": ("text.prompt.",),
}


def freeze(model: GLIP) -> None:
    """Leave only those parameters to training that the mode trains, less the first stages if so set."""
    config = model.config
    if config.tuning.mode == "prompt" and not config.text.prompt_rows:
        raise UserError("--tuning.mode prompt trains --text.prompt-rows vectors: set it to 1000, as the original has")
    frozen = tuple(frozen_parts(config.model.frozen_stages))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED[config.tuning.mode]) and not name.startswith(frozen))


def frozen_parts(stages: int) -> Iterable[str]:
    """Of Swin, as the original counts: from 0 the patch embedding, from 2 the first stage, from 3 the second too."""
    if stages >= 0:
        yield from ("backbone.patch_embedding.", "backbone.patch_norm.")
    for stage in range(stages - 1):
        yield f"backbone.stages.{stage}."
        if stage:
            yield f"backbone.merges.{stage - 1}."


def parameter_group(tuning: Tuning) -> ParameterGroup:
    """Learning rate and weight decay: BERT has its own rate, and biases of any kind are faster and don't decay."""

    def group(name: str, parameter: nn.Parameter, settings: Optimizer) -> Group:
        scale = settings.backbone_lr_scale if name.startswith("backbone.") else 1.0
        if name.startswith("text."):
            scale = tuning.language_lr_scale
        if "bias" in name:  # biases of attention and of tokens as well
            return scale * settings.bias_lr_scale, 0.0
        decays = settings.norm_and_bias_decay or parameter.ndim > 1
        return scale, settings.weight_decay if decays else 0.0

    return group


def in_steps(config: Config, images: int) -> Schedule:
    """The schedule with milestones given as fractions of the run as the steps they fall on."""
    schedule, training = config.schedule, config.training
    if not schedule.milestones or max(schedule.milestones) >= 1:
        return schedule
    steps = training.steps or training.epochs * -(-images // training.batch_size)
    return replace(schedule, unit="steps", milestones=[float(round(share * steps)) for share in schedule.milestones])
