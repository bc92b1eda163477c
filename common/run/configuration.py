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

from common.errors import UserError

T = TypeVar("T")
UNSET = -1  # stands for a number that nobody gave
UNPREFIXED = "training"  # the section whose flags and keys have no prefix
# Of one machine or one call: a checkpoint must not bring them to another. The precision stays: scores depend on it.
NOT_KEPT = {"run", "resume", "weights", "device", "workers", "overwrite"}
# What a checkpoint's weights are made for; what of it is only looked up while predicting; what only training reads.
OF_THE_NETWORK = ("variant:", "model.", "text.", "relations.")
READ_LATER = (
    *("text.vocabulary:", "relations.max_entities:", "relations.max_relations:"),
    *("relations.score_threshold:", "relations.original_faults:"),
)
OF_TRAINING = (
    *("optimizer.", "schedule.", "augment.", "losses.", "train.", "tuning.", "recipe_batch_size:"),
    *("data.train.", "data.keep_empty:", "training.epochs:", "training.steps:", "training.start_step:"),
    *("training.minutes:", "training.save_every:", "training.evaluate_every:", "training.compile:"),
    *("training.report:", "training.not_finite:"),
)


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
    variant: Any = choose(variants, arguments.pop(0)) if named else next(iter(variants.values()))
    own: Any = variant if default is None else default
    if named and own.variant != variant.variant:
        raise UserError(f"{variant.variant}: the checkpoint is one of {own.variant}; leave out the variant's name")
    config: T = deepcopy(own)
    from_file, from_line = yaml_as_flags(arguments, evaluating)
    if from_file:
        config = changed(config, from_file, prog)
    return changed(config, from_line, prog)


def changed(base: T, words: Sequence[str], prog: str | None) -> T:
    """`base` changed by flags. Where these say how many epochs, but not how many steps, no steps of the base stay."""
    config: Any = tyro.cli(type(base), args=words, default=base, prog=prog)
    if config.training.steps:
        unset: Any = deepcopy(base)
        unset.training.epochs = unset.training.steps = UNSET
        given = tyro.cli(type(base), args=words, default=unset, prog=prog).training
        if given.epochs != UNSET and given.steps == UNSET:
            config.training.steps = 0
    return config  # type: ignore[no-any-return]


def choose(variants: Mapping[str, T], name: str) -> T:
    if name not in variants:
        near = difflib.get_close_matches(name, variants, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no variant is called {name!r}; {hint}there are {', '.join(variants)}")
    return variants[name]


def yaml_as_flags(arguments: Sequence[str], evaluating: bool = False) -> tuple[list[str], list[str]]:
    """The settings of `--config FILE` as flags, and the other flags."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return [], words
    place = words.index("--config")
    if place + 1 == len(words):
        raise UserError("--config needs a YAML file after it")
    path = Path(words[place + 1])
    content = read_settings(path)
    if evaluating and path.name == "config.yaml" and (path.parent / "best.safetensors").exists():
        content |= {"run": str(path.parent), "weights": ""}  # a run's own file says what the run started from
    return flags(content), words[:place] + words[place + 2 :]


def read_settings(path: Path) -> dict[str, Any]:
    """What a YAML file says, the unprefixed section's settings at the top."""
    import yaml  # here: who only loads a model has no YAML to read

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
    import yaml

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


def refuse_another_network(own: Any, asked: Any, source: str) -> None:
    """Stop where settings contradict the network that a checkpoint holds; say which ones an evaluation doesn't read."""
    changes = [line for line in differences(to_dict(own), to_dict(asked)) if not line.startswith(READ_LATER)]
    if contradictions := [line for line in changes if line.startswith(OF_THE_NETWORK)]:
        raise UserError(f"{source} holds another network than the settings ask for: {'; '.join(contradictions)}")
    if unread := [line.partition(":")[0] for line in changes if line.startswith(OF_TRAINING)]:
        print(f"of no effect on an evaluation: {', '.join(unread)}", file=sys.stderr)


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two configurations differ: "optimizer.lr: 0.01 before, 0.005 now"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        found = [differences(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for lines in found for line in lines]
    return [] if before == now else [f"{name}: {before} before, {now} now"]


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
