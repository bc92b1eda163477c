"""A configuration from variants, YAML and flags, and back to YAML; flags and keys have the same dotted names.

`python train.py VARIANT --config FILE.yaml --flags`: the variant's settings, changed by the file's, changed by the
flags'.
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


def configure(
    variants: Mapping[str, T],
    arguments: Sequence[str] | None = None,
    default: T | None = None,
    prog: str | None = None,
) -> T:
    """The configuration that a command line asks for; `default` stands in where it names no variant."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    base = deepcopy(default) if default is not None else deepcopy(next(iter(variants.values())))
    if arguments and not arguments[0].startswith("-"):
        base = deepcopy(choose(variants, arguments.pop(0)))
    config: T = tyro.cli(type(base), args=yaml_as_flags(arguments), default=base, prog=prog)
    return config


def choose(variants: Mapping[str, T], name: str) -> T:
    if name not in variants:
        near = difflib.get_close_matches(name, variants, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no variant is called {name!r}; {hint}there are {', '.join(variants)}")
    return variants[name]


def yaml_as_flags(arguments: list[str]) -> list[str]:
    """`--config FILE` replaced by the file's settings, put before the flags so that these win."""
    if "--config" not in arguments:
        return arguments
    place = arguments.index("--config")
    if place + 1 == len(arguments):
        raise UserError("--config needs a YAML file after it")
    path = Path(arguments[place + 1])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a YAML file of settings") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected settings (key: value), found {type(content).__name__}")
    return flags(content) + arguments[:place] + arguments[place + 2 :]


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
    """For a checkpoint: plain data."""
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def from_dict(kind: type[T], settings: Mapping[str, Any], source: str) -> T:
    try:
        return msgspec.convert(settings, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: its configuration does not fit this version: {error}") from error


def _words(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in _words(item)]
    return [str(value)]
