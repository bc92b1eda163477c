"""The one place that decides what a converted file's tensors don't tell: colours, mean, stride, thresholds, classes.

What the file says of itself comes first, then the one published recipe with these shapes; where recipes that differ
in results fit, `--model` must name one. Each decision is kept with its source and printed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from common.errors import UserError
from common.files import read_text
from maskworks.command_line.yaml_files import YAML_MEGABYTES
from maskworks.published.config_text import read_config, read_yaml


class UndecidedError(UserError):
    """Several recipes fit, and the file doesn't say which it is of."""


class Classes(NamedTuple):
    """A model's classes in the order that it predicts them, with their ids in annotation files."""

    names: tuple[str, ...]
    ids: tuple[int, ...]
    source: str


@dataclass(frozen=True)
class Origin:
    """What a published file says of itself, beside its tensors."""

    path: str
    rest: Mapping[str, Any] = field(default_factory=dict)  # the plain data beside the weights, as `meta`
    recipe: Mapping[str, Any] = field(default_factory=dict)  # MMDetection's or Detectron's configuration, read as data
    notes: tuple[str, ...] = ()  # what of that was not understood
    classes: Classes | None = None  # as asked for

    @classmethod
    def read(cls, path: str, rest: Mapping[str, Any], classes: Classes | None = None) -> "Origin":
        """Whole configurations are texts: in `meta` 'config' of MMDetection 2, 'cfg' of 3; Detectron's is YAML.

        Detectron2 writes its own into config.yaml beside the checkpoint.
        """
        meta = plain_dict(rest.get("meta"))
        texts = [meta[key] for key in ("cfg", "config") if isinstance(meta.get(key), str)]
        own = rest.get("cfg")
        recipe, notes = read_config(texts[0]) if texts else read_yaml(own) if isinstance(own, str) else ({}, [])
        beside = PurePath(path).with_name("config.yaml")
        if not recipe and Path(beside).is_file():
            found, _ = read_yaml(read_text(Path(beside), YAML_MEGABYTES, "replace"))
            recipe = found if "MODEL" in found else recipe
            notes = [*notes, f"read with {beside}"] if recipe else notes
        return cls(path, rest, recipe, tuple(notes), classes)

    @property
    def name(self) -> str:
        """The file's name in lower case, without its ending: published names tell recipes apart."""
        return PurePath(self.path).stem.lower()


def at(recipe: Any, path: str) -> Any:
    """What stands at a dotted path; None where nothing does. A number in the path picks from a list."""
    for key in path.split("."):
        if isinstance(recipe, Mapping):
            recipe = recipe.get(key)
        elif isinstance(recipe, (list, tuple)) and key.isdecimal() and int(key) < len(recipe):
            recipe = recipe[int(key)]
        else:
            return None
    return recipe


def plain_dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


class Decision(NamedTuple):
    setting: str  # dotted, as the flag that changes it; or "variant", "classes"
    value: Any
    source: str  # in words


class Said(NamedTuple):
    """A value that the file gives, and where in it."""

    value: Any
    source: str


def choose_recipe(
    fitting: Mapping[str, object], asked: str | None, origin: Origin | None, said: Said | None = None
) -> Decision:
    """The published variant that a file is of.

    `fitting` has each variant that fits the shapes, with what it decides in any form that can be compared; `said` is
    the variant that the file itself tells. Without an origin nobody wants the settings, but only the weights: the
    last that fits will do.
    """
    if asked:
        return Decision("variant", asked, "--model")
    if said:
        return Decision("variant", *said)
    *others, last = fitting
    if origin is None or all(fitting[name] == fitting[last] for name in others):
        return Decision("variant", last, "the published recipe with these names and shapes")
    raise UndecidedError(
        f"{origin.path}: its weights fit recipes that differ in what they decide ({', '.join(fitting)}), and it "
        "doesn't say which it is of; name one with --model"
    )


def nearest(variants: Mapping[str, Any], told: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The variants that differ least from what is told of them: section -> setting -> its value."""

    def differences(name: str) -> int:
        sections = ((getattr(variants[name], section), values) for section, values in told.items())
        return sum(getattr(own, key) != value for own, values in sections for key, value in values.items())

    fewest = min(map(differences, variants))
    return [name for name in variants if differences(name) == fewest]


def values_of(config: object, settings: Sequence[str]) -> tuple[Any, ...]:
    """What a configuration decides, to compare recipes by."""
    return tuple(reduce(getattr, setting.split("."), config) for setting in settings)


def settle(
    config: Any, recipe: Decision, deciding: Sequence[str], said: Mapping[str, Said] | None = None
) -> list[Decision]:
    """Put what a file says into its recipe's configuration; every deciding setting with its value and source."""
    decisions = [recipe]
    for setting in dict.fromkeys((*deciding, *(said or {}))):
        *sections, name = setting.split(".")
        section = reduce(getattr, sections, config)
        if said and setting in said:
            setattr(section, name, said[setting].value)
        source = said[setting].source if said and setting in said else f"the recipe of {recipe.value}"
        decisions.append(Decision(setting, getattr(section, name), source))
    return decisions
