"""Variants, YAML and flags: the same names, in that order of precedence, and nearest matches for wrong ones."""

import pytest

from common.errors import UserError
from common.run.configuration import configure, from_dict, to_dict, to_yaml
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


def test_variants_are_not_changed_by_flags():
    assert configure(VARIANTS, ["--optimizer.lr", "7"]).optimizer.lr == 7
    assert VARIANTS["shapes"].optimizer.lr != 7


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(UserError, match="did you mean light_r18_448"):
        configure(VARIANTS, ["light_r18_44"])


def test_an_unknown_key_names_the_nearest(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("optimizer:\n  lrr: 0.5\n")
    with pytest.raises(SystemExit) as stop:
        configure(VARIANTS, ["--config", str(tmp_path / "my.yaml")])
    assert stop.value.code == 2
    assert "--optimizer.lr" in capsys.readouterr().err


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
