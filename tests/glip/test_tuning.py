"""Which parameters each mode trains, and how fast."""

from dataclasses import replace

import pytest
import torch

from common.errors import UserError
from common.run.settings import Optimizer
from glip.config import VARIANTS, Tuning
from glip.network import GLIP
from glip.tuning import freeze, in_steps, parameter_group
from glip.weights import initialise
from tests.glip.small import NAMES, small_config, small_model


def trained(mode, **text):
    config = small_config()
    config.tuning, config.text = Tuning(mode=mode), replace(config.text, **text)
    model = GLIP(config, NAMES)
    freeze(model)
    return model, {name for name, parameter in model.named_parameters() if parameter.requires_grad}


HEAD = "head.box. head.centerness. head.alignment."
MODES = [
    ("full", ""),
    ("frozen_language", "backbone. pyramid. head."),
    ("linear_probe", HEAD),
    ("language", "text.bert."),
]


@pytest.mark.parametrize(("mode", "parts"), [*MODES, ("prompt", "text.prompt.")])
def test_a_mode_trains_these_parts_only(mode, parts):
    """The scales that levels have of their own are none of the head's last layers."""
    model, names = trained(mode, prompt_rows=1000)
    starts = tuple(parts.split()) or ("",)
    assert names == {name for name, _ in model.named_parameters() if name.startswith(starts)} != set()


def test_a_frozen_language_stays_as_in_prediction_and_a_prompt_needs_rows():
    model, _ = trained("frozen_language")
    model.train()
    assert not model.text.training
    assert model.backbone.training
    with pytest.raises(UserError, match="prompt-rows"):
        trained("prompt")


def test_frozen_stages_count_as_the_original_does():
    config = small_config(frozen_stages=2)
    model = GLIP(config, NAMES)
    freeze(model)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name.rpartition(".")[0] for name in frozen if "stages" not in name} == {
        "backbone.patch_embedding",
        "backbone.patch_norm",
    }
    assert {name.split(".")[2] for name in frozen if "stages" in name} == {"0"}


def test_learning_rates_and_decay_as_published():
    group = parameter_group(Tuning(language_lr_scale=0.1))
    settings = Optimizer(weight_decay=1e-4, bias_lr_scale=2.0)
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    assert group("head.box.weight", weight, settings) == (1.0, 1e-4)
    assert group("head.alignment.token_bias", weight, settings) == (2.0, 0.0)
    assert group("backbone.stages.0.0.attention.position_bias", weight, settings) == (2.0, 0.0)
    assert group("text.bert.encoder.layer.0.output.dense.weight", weight, settings) == (0.1, 1e-4)
    assert group("text.bert.encoder.layer.0.output.dense.bias", weight, settings) == (0.2, 0.0)


def test_milestones_below_one_are_fractions_of_the_run():
    config = VARIANTS["glip_tiny"]
    schedule = in_steps(config, images=3200)  # 100 steps an epoch, 24 epochs
    assert (schedule.unit, schedule.milestones) == ("steps", [1608.0, 2136.0])
    assert in_steps(VARIANTS["shapes"], 800) is VARIANTS["shapes"].schedule


def test_a_checkpoint_without_a_prompt_starts_prompt_tuning(tmp_path):
    torch.save(small_model().state_dict(), tmp_path / "plain.pth")
    model, _ = trained("prompt", prompt_rows=7)
    initialise(model, str(tmp_path / "plain.pth"))
    assert torch.equal(model.state_dict()["head.box.weight"], small_model().state_dict()["head.box.weight"])
    assert not model.state_dict()["text.prompt.weight"].any()
