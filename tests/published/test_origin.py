"""What decides a conversion: a file's own configuration as data, the recipes that fit, and where each value is from."""

from dataclasses import dataclass, field

import pytest

from common.errors import UserError
from maskworks.published.config_text import read_config, read_yaml
from maskworks.published.origin import Origin, Said, choose_recipe, settle

TEXT = """
mean = [103.53, 116.28, 123.675]
norm = dict(mean=mean, std=[1.0, -1.0, 1], to_rgb=False)
model = dict(type='MaskRCNN', backbone=dict(depth=50, style='caffe'), ranges=((-1, inf), (8, 16)), none=None)
test_pipeline = [dict(type='Normalize', **norm), {'type': 'Pad', 'size_divisor': 32}]
"""


def test_a_configuration_is_read_as_data():
    values, notes = read_config(TEXT)
    assert values["norm"] == {"mean": [103.53, 116.28, 123.675], "std": [1.0, -1.0, 1], "to_rgb": False}
    assert values["model"]["backbone"] == {"depth": 50, "style": "caffe"}
    assert values["model"]["ranges"] == ((-1, float("inf")), (8, 16)) and values["model"]["none"] is None
    assert values["test_pipeline"] == [{"type": "Normalize", **values["norm"]}, {"type": "Pad", "size_divisor": 32}]
    assert notes == []


def test_yaml_with_pythons_objects_is_read_as_what_they_are_made_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
!!python/object/new:utils.collections.AttrDict
dictitems:
  TEST: !!python/object/new:utils.collections.AttrDict
    dictitems: {SCALES: !!python/tuple [800], NMS: 0.5}
  RUN: !!python/object/apply:os.system ["touch hacked"]
  NAME: !!python/name:os.system ''
"""
    assert read_yaml(text) == ({"TEST": {"SCALES": [800], "NMS": 0.5}, "RUN": ["touch hacked"], "NAME": ""}, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- a list",
        "a: !unknown 1",
        "{" * 5000,
        "a: &a {k: 1}\nb: {<<: [*a, *a]}",
        "? [1, {}]\n: 1",
        "a: 2001-99-99",
        "a: " + "9" * 5000,
    ],
)
def test_yaml_that_is_no_configuration_is_ignored_and_said(text):
    values, (note,) = read_yaml(text)
    assert values == {}
    assert note.startswith("its configuration ") and note.endswith(", and is ignored")


def test_texts_of_early_files_one_after_the_other_change_one_another():
    base = "/home/x/configs/base.py\nmodel = dict(style='pytorch', neck=dict(a=1, b=2), head=dict(c=1))\n"
    own = "own.py\n_base_ = './base.py'\nmodel = dict(style='caffe', neck=dict(b=3), head=dict(_delete_=True, d=1))"
    values, notes = read_config(base + own)
    assert values["model"] == {"style": "caffe", "neck": {"a": 1, "b": 3}, "head": {"d": 1}} and notes == []


@pytest.mark.parametrize(
    "text",
    [
        "import os",
        "a = __import__('os').system('touch hacked')",
        "a = [x for x in (1, 2)]",
        "a = 9 ** 9 ** 9",
        "a = 'x' * 10 ** 10",
        "a = f'{open(1)}'",
        "a.b = 1",
        "a = b",
        "a = {**{}}",
        "a = dict(**1)",
        "a = dict([(1, 2)])",
        "a = {[]: 1}",
        "a: int = 1",
        "def a(): pass",
        "a = (",
        "a = '\0'",
        "a = " + "(" * 5000 + ")" * 5000,
        "a = " + "-" * 5000 + "1",
        "a = " + "[" * 90 + "x" + "]" * 90,
        "# " + "x" * 1_000_001,
    ],
)
def test_what_is_not_data_is_ignored_and_said(text):
    values, notes = read_config(text)
    assert values == {} and len(notes) == 1 and "\n" not in notes[0] and "ignored" in notes[0]


def test_a_name_whose_new_value_is_no_data_keeps_no_old_one():
    assert read_config("a = 1\nb = 2\na = open(0)")[0] == {"b": 2}


def test_both_versions_of_mmdetection_keep_their_configuration_in_meta():
    for key in ("config", "cfg"):
        assert Origin.read("x.pth", {"meta": {key: "a = 1"}}).recipe == {"a": 1}
    assert Origin.read("x.pth", {"meta": [], "epoch": 3}).recipe == {}


def test_of_recipes_that_decide_alike_the_last_is_taken_and_others_are_asked_for():
    origin = Origin("mine.pth")
    assert choose_recipe({"1x": "rgb", "3x": "rgb"}, None, origin).value == "3x"
    with pytest.raises(UserError, match=r"mine\.pth.*caffe, pytorch.*--model"):
        choose_recipe({"caffe": "bgr", "pytorch": "rgb"}, None, origin)
    fitting = {"caffe": "bgr", "pytorch": "rgb"}
    assert choose_recipe(fitting, "caffe", origin).source == "--model"
    assert choose_recipe(fitting, None, origin, Said("caffe", "its name")) == ("variant", "caffe", "its name")
    assert choose_recipe(fitting, None, None).value == "pytorch"  # for weights alone nobody is asked


@dataclass
class Inner:
    mean: float = 1.0
    std: float = 2.0


@dataclass
class Outer:
    model: Inner = field(default_factory=Inner)


def test_what_the_file_says_wins_over_the_recipe_and_each_value_has_its_source():
    config = Outer()
    recipe = choose_recipe({"r50": 0}, None, Origin("a.pth"))
    decisions = settle(config, recipe, ["model.mean", "model.std"], {"model.std": Said(3.0, "meta")})
    assert config.model == Inner(1.0, 3.0)
    assert decisions[1:] == [("model.mean", 1.0, "the recipe of r50"), ("model.std", 3.0, "meta")]
