"""A configuration from variants, YAML and flags, and back to YAML; flags and keys have the same dotted names.

`python train.py VARIANT --config FILE.yaml --flags`: the variant's settings, changed by the file's, changed by the
flags'. To evaluate, the checkpoint's own settings stand in for the variant's.
"""

import difflib
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tyro
import yaml

from common.errors import UserError

T = TypeVar("T")
UNPREFIXED = "training"  # the section whose flags and keys have no prefix
# Of one machine or one call: a checkpoint must not bring them to another. The precision stays: scores depend on it.
NOT_KEPT = {"run", "resume", "weights", "device", "workers", "overwrite"}


def configure(
    variants: Mapping[str, T],
    arguments: Sequence[str] | None = None,
    default: T | None = None,
    prog: str | None = None,
    *,
    evaluating: bool = False,
) -> T:
    """The configuration that a command line asks for; `default` stands in for the variant's settings."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    named = bool(arguments) and not arguments[0].startswith("-")
    variant = choose(variants, arguments.pop(0)) if named else next(iter(variants.values()))
    base = deepcopy(variant if default is None else default)
    config: T = tyro.cli(type(base), args=yaml_as_flags(arguments, evaluating), default=base, prog=prog)
    return config


def choose(variants: Mapping[str, T], name: str) -> T:
    if name not in variants:
        near = difflib.get_close_matches(name, variants, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no variant is called {name!r}; {hint}there are {', '.join(variants)}")
    return variants[name]


def yaml_as_flags(arguments: Sequence[str], evaluating: bool = False) -> list[str]:
    """`--config FILE` replaced by the file's settings, put before the flags so that these win."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return words
    place = words.index("--config")
    if place + 1 == len(words):
        raise UserError("--config needs a YAML file after it")
    path = Path(words[place + 1])
    content = read_settings(path)
    if evaluating and path.name == "config.yaml" and (path.parent / "best.safetensors").exists():
        content |= {"run": str(path.parent), "weights": ""}  # a run's own file says what the run started from
    return flags(content) + words[:place] + words[place + 2 :]


def read_settings(path: Path) -> dict[str, Any]:
    """What a YAML file says, the unprefixed section's settings at the top."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a YAML file of settings") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected settings (key: value), found {type(content).__name__}")
    section = content.pop(UNPREFIXED, None)
    return {**section, **content} if isinstance(section, dict) else content


def flags(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as a command line."""
    line: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            line += flags(value, f"{name}.")
        elif isinstance(value, bool):
            head, _, last = name.rpartition(".")
            line.append(f"--{head}{'.' if head else ''}{'' if value else 'no-'}{last}")
        else:
            line += [f"--{name}", *_words(value)]
    return line


def to_yaml(config: Any) -> str:
    """What --config reads: a section a key, the unprefixed section's settings at the top."""
    settings = msgspec.to_builtins(config)
    return yaml.safe_dump({**settings.pop(UNPREFIXED), **settings}, sort_keys=False)


def to_dict(config: Any) -> dict[str, Any]:
    """For a checkpoint: plain data, without what belongs to this machine or call."""
    return _kept(msgspec.to_builtins(config))


def from_dict(kind: type[T], settings: Mapping[str, Any], source: str) -> T:
    try:
        return msgspec.convert(_kept(settings), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: its configuration does not fit this version: {error}") from error


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings; those of older ones are read without what was of their machine."""
    section = settings.get(UNPREFIXED)
    if not isinstance(section, Mapping):
        return dict(settings)
    return {**settings, UNPREFIXED: {key: value for key, value in section.items() if key not in NOT_KEPT}}


def _words(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in _words(item)]
    return [str(value)]
