"""A configuration from variants, YAML and flags, and back to YAML; flags and keys have the same dotted names.

`python train.py VARIANT --config FILE.yaml --flags`: the variant's settings, changed by the file's, changed by the
flags'. To evaluate, the checkpoint's own settings stand in for the variant's.
"""

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from common.errors import UserError
from common.files import read_text
from common.run import command_line

T = TypeVar("T")
YAML_MEGABYTES, MOST_THINGS, DEEPEST = 0.1, 10**5, 200
UNPREFIXED = "training"  # the section whose flags and keys have no prefix
# What people change; the help without --help-all shows these.
TO_TRAIN = (
    *("--data", "--weights", "--run", "--resume", "--epochs", "--minutes", "--batch-size", "--optimizer.lr"),
    *("--workers", "--device"),
)
TO_EVALUATE = (
    *("--weights", "--data", "--data.val.images", "--data.val.annotations", "--run", "--overwrite", "--limit"),
    *("--batch-size", "--workers", "--device"),
)
OF_NO_ONE_ELSE = {
    "shapes": "learns the built-in data set from scratch, in minutes",
    "small": "for own data (--data), which says sizes and steps",
}
# Of one machine or one call: a checkpoint must not bring them to another. The precision stays: scores depend on it.
NOT_KEPT = {"run", "resume", "weights", "device", "workers", "overwrite", "fit_batch_size"}
# What a checkpoint's weights are made for; what of it is only looked up while predicting; what only training reads.
OF_THE_NETWORK = ("variant:", "model.", "text.", "relations.")
READ_LATER = (
    *("text.vocabulary:", "relations.max_entities:", "relations.max_relations:"),
    *("relations.score_threshold:", "relations.original_faults:"),
)
OF_TRAINING = (
    *("optimizer.", "schedule.", "augment.", "losses.", "train.", "tuning.", "recipe_batch_size:"),
    *(
        "data.train.",
        "data.keep_empty:",
        "data.augment:",
        "training.epochs:",
        "training.steps:",
        "training.start_step:",
    ),
    *("training.minutes:", "training.save_every:", "training.evaluate_every:", "training.compile:"),
    *("training.report:", "training.not_finite:", "training.patience:"),
)


def configure(
    variants: Mapping[str, T],
    arguments: Sequence[str] | None = None,
    default: T | None = None,
    prog: str = "train.py",
    *,
    evaluating: bool = False,
) -> T:
    """The configuration that a command line asks for; `default` stands in for the variant's settings."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = arguments if evaluating else auto_as_flag(arguments)
    named = bool(arguments) and not arguments[0].startswith("-")
    variant: Any = choose(variants, arguments.pop(0)) if named else next(iter(variants.values()))
    own: Any = variant if default is None else default
    if named and own.variant != variant.variant:
        raise UserError(f"{variant.variant}: the checkpoint is one of {own.variant}; leave out the variant's name")
    if command_line.HELP & set(arguments):
        print("\n".join(help_page(variants, own, prog, everything="--help-all" in arguments)))
        raise SystemExit(0)
    config: T = deepcopy(own)
    file, from_file, from_line = yaml_as_flags(arguments, evaluating)
    refuse_variant_flag(from_line, variants, prog)
    if from_file:
        filed: Any = changed(config, from_file, prog, file)
        choose(variants, filed.variant)
        config = filed
    return changed(config, from_line, prog)


def changed(base: T, words: Sequence[str], prog: str, file: str = "") -> T:
    """`base` changed by flags. Where these say how many epochs, but not how many steps, no steps of the base stay."""
    config: Any = command_line.read(type(base), prog, words, base, file)
    given = {command_line.flag_of(word) for word in words}
    if "--epochs" in given and "--steps" not in given:
        config.training.steps = 0
    return config  # type: ignore[no-any-return]


def auto_as_flag(words: Sequence[str]) -> list[str]:
    """--batch-size auto is another setting: the size is a number."""
    found: list[str] = []
    for word in words:
        if word == "auto" and found and command_line.flag_of(found[-1]) == "--batch-size":
            found[-1] = "--fit-batch-size"
        else:
            found.append("--fit-batch-size" if word in ("--batch-size=auto", "--batch_size=auto") else word)
    return found


def choose(variants: Mapping[str, T], name: str) -> T:
    if name not in variants:
        hint = command_line.nearest(name, variants).removeprefix(";")
        raise UserError(f"no variant is called {name!r};{hint} there are {', '.join(variants)}")
    return variants[name]


def refuse_variant_flag(words: Sequence[str], variants: Mapping[str, Any], prog: str) -> None:
    """The setting says where a run's other settings came from; as a flag it would change its name alone."""
    for word, after in pairwise([*words, ""]):
        if command_line.flag_of(word) == "--variant":
            name = word.partition("=")[2] or after
            choose(variants, name)
            raise UserError(f"--variant {name}: a variant is named first, without a flag: {prog} {name} [--flags]")


def help_page(variants: Mapping[str, Any], own: Any, prog: str, everything: bool) -> Iterator[str]:
    """Usage, variants and the settings that people change, on a screen; or every setting."""
    settings = list(command_line.settings_of(type(own), own))
    yield f"usage: {prog} [VARIANT] [--config FILE.yaml] [--flags]"
    yield ""
    if everything:
        yield from command_line.in_full(setting for setting in settings if setting.flag != "--variant")
        return
    yield from textwrap.wrap(f"{type(own).__doc__} Without VARIANT: {next(iter(variants))}.", command_line.COLUMNS)
    for name, config in variants.items():
        yield from command_line.entry(name, [variant_line(config)])
    yield ""
    by_flag = {setting.flag: setting for setting in settings}
    yield from command_line.in_brief(by_flag[flag] for flag in (TO_TRAIN if prog == "train.py" else TO_EVALUATE))
    yield ""
    yield f"All {len(by_flag)} settings, with their ranges and defaults: {prog} [VARIANT] --help-all"


def variant_line(config: Any) -> str:
    """A variant in a line: its body, the size of its input, and how long it trains."""
    model, test, training = config.model, config.test, config.training
    if config.variant in OF_NO_ONE_ELSE:
        return OF_NO_ONE_ELSE[config.variant]
    side = getattr(model, "input_size", None) or getattr(test, "size", None)
    size = f"{side} x {side}" if side else f"{test.long_side} x {test.short_side}"
    length = f"{training.steps} steps" if training.steps else f"{training.epochs} epochs"
    line = [getattr(model, "backbone", ""), f"{size} pixels", f"{length} of {training.batch_size} pictures a step"]
    return ", ".join(filter(None, line))


def yaml_as_flags(arguments: Sequence[str], evaluating: bool = False) -> tuple[str, list[str], list[str]]:
    """The file of `--config FILE`, its settings as flags, and the other flags."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return "", [], words
    place = words.index("--config")
    if place + 1 == len(words):
        raise UserError("--config needs a YAML file after it")
    path = Path(words[place + 1])
    content = read_settings(path)
    if evaluating and path.name == "config.yaml" and (path.parent / "best.safetensors").exists():
        content |= {"run": str(path.parent), "weights": ""}  # a run's own file says what the run started from
    return str(path), flags(content), words[:place] + words[place + 2 :]


def read_settings(path: Path) -> dict[str, Any]:
    """What a YAML file says, the unprefixed section's settings at the top."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected settings (key: value), found {type(content).__name__}")
    section = content.pop(UNPREFIXED, None)
    return {**section, **content} if isinstance(section, dict) else content


def read_yaml(path: Path) -> Any:
    """A YAML file's content; what stands in for something said before doesn't make it grow without bound."""
    import yaml  # here: who only loads a model has no YAML to read

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MOST_THINGS:  # merges within merges double with each level
                raise ValueError(f"more than {MOST_THINGS:,} things in it")

    try:
        text = read_text(path, YAML_MEGABYTES)
        if deepest(text) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets in one another")  # which the parser takes minutes for
        content = yaml.load(text, Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a YAML file") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    met, left = 0, [content]
    while left:
        value = left.pop()
        met += len(value) if isinstance(value, dict | list) else 0
        if met > MOST_THINGS or (isinstance(value, int) and abs(value) >= 2**64):
            problem = f"more than {MOST_THINGS:,} things" if met > MOST_THINGS else "a number of more than 64 bits"
            raise UserError(f"{path}: {problem} in it; expected a file of settings")
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return content


def deepest(text: str) -> int:
    """How many brackets are open at once."""
    steps = (1 if each in "[{" else -1 for each in text if each in "[]{}")
    return max(accumulate(steps, initial=0))


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
