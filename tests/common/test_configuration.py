"""Variants, YAML and flags: the same names, in that order of precedence, and nearest matches for wrong ones."""

import pytest

from common.errors import UserError
from common.run.configuration import from_dict, to_dict
from maskrcnn.config import VARIANTS as MASKRCNN
from maskworks.command_line.variants import configure
from maskworks.command_line.yaml_files import to_yaml
from solov2.config import VARIANTS, Config


def test_without_arguments_the_first_variant_is_taken():
    assert configure(VARIANTS, []) == VARIANTS["shapes"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_survives_yaml_and_flags(variant, tmp_path):
    config = configure(VARIANTS, [variant])
    assert config == VARIANTS[variant]
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert configure(VARIANTS, ["--config", str(tmp_path / "saved.yaml")]) == config
    assert from_dict(Config, to_dict(config), "here") == config


def test_flags_win_over_the_file_and_the_file_over_the_variant(tmp_path):
    (tmp_path / "my.yaml").write_text("epochs: 5\nseed: 9\noptimizer:\n  lr: 0.5\nresume: true\n")
    file = str(tmp_path / "my.yaml")
    config = configure(VARIANTS, ["light_r18_448", "--config", file, "--seed", "4", "--no-resume"])
    assert (config.training.epochs, config.training.seed, config.optimizer.lr) == (5, 4, 0.5)
    assert not config.training.resume
    assert config.model == VARIANTS["light_r18_448"].model


@pytest.mark.parametrize(
    ("file", "flags", "epochs", "steps"),
    [
        ("", "", 12, 90_000),
        ("", "--epochs 3", 3, 0),
        ("", "--epochs 12", 12, 0),  # the variant's own number, but now it's asked for
        ("", "--steps 7", 12, 7),
        ("", "--epochs 3 --steps 7", 3, 7),
        ("epochs: 5", "", 5, 0),
        ("epochs: 5\nsteps: 70", "", 5, 70),
        ("epochs: 5\nsteps: 70", "--epochs 3", 3, 0),
        ("epochs: 5", "--steps 7", 5, 7),
    ],
)
def test_epochs_without_steps_decide_over_the_steps_of_what_they_change(tmp_path, file, flags, epochs, steps):
    (tmp_path / "my.yaml").write_text(file or "{}")
    training = configure(MASKRCNN, ["r50_fpn_1x", "--config", str(tmp_path / "my.yaml"), *flags.split()]).training
    assert (training.epochs, training.steps) == (epochs, steps)


@pytest.mark.parametrize("variants", [VARIANTS, MASKRCNN])
def test_a_variants_name_is_in_its_settings(variants):
    assert {name: config.variant for name, config in variants.items()} == {name: name for name in variants}


def test_variants_are_not_changed_by_flags():
    assert configure(VARIANTS, ["--optimizer.lr", "7"]).optimizer.lr == 7
    assert VARIANTS["shapes"].optimizer.lr != 7


def test_an_unknown_key_names_the_nearest(tmp_path):
    (tmp_path / "my.yaml").write_text("optimizer:\n  lrr: 0.5\n")
    with pytest.raises(UserError, match=r"my\.yaml: --optimizer\.lrr: no such flag; did you mean --optimizer\.lr\?"):
        configure(VARIANTS, ["--config", str(tmp_path / "my.yaml")])


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "not YAML"), ("- 1", "expected settings"), ("!!python/object:os.x {}", "not YAML")],
)
def test_a_file_that_holds_no_settings_is_refused(tmp_path, content, message):
    (tmp_path / "my.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        configure(VARIANTS, ["--config", str(tmp_path / "my.yaml")])


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: No such file"):
        configure(VARIANTS, ["--config", str(tmp_path / "nowhere.yaml")])
