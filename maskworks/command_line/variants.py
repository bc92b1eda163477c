"""A configuration from variants, YAML and flags; flags and keys have the same dotted names.

`python train.py VARIANT --config FILE.yaml --flags`: the variant's settings, changed by the file's, changed by the
flags'. To evaluate, the checkpoint's own settings stand in for the variant's.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, TypeVar

from common.errors import UserError
from common.run.configuration import differences, to_dict
from maskworks.command_line.help import HELP, help_page
from maskworks.command_line.reading import flag_of, nearest, read
from maskworks.command_line.yaml_files import yaml_as_flags

T = TypeVar("T")
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
    if HELP & set(arguments):
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
    config: Any = read(type(base), prog, words, base, file)
    given = {flag_of(word) for word in words}
    if "--epochs" in given and "--steps" not in given:
        config.training.steps = 0
    return config  # type: ignore[no-any-return]


def auto_as_flag(words: Sequence[str]) -> list[str]:
    """--batch-size auto is another setting: the size is a number."""
    found: list[str] = []
    for word in words:
        if word == "auto" and found and flag_of(found[-1]) == "--batch-size":
            found[-1] = "--fit-batch-size"
        else:
            found.append("--fit-batch-size" if word in ("--batch-size=auto", "--batch_size=auto") else word)
    return found


def choose(variants: Mapping[str, T], name: str) -> T:
    if name not in variants:
        hint = nearest(name, variants).removeprefix(";")
        raise UserError(f"no variant is called {name!r};{hint} there are {', '.join(variants)}")
    return variants[name]


def refuse_variant_flag(words: Sequence[str], variants: Mapping[str, Any], prog: str) -> None:
    """The setting says where a run's other settings came from; as a flag it would change its name alone."""
    for word, after in pairwise([*words, ""]):
        if flag_of(word) == "--variant":
            name = word.partition("=")[2] or after
            choose(variants, name)
            raise UserError(f"--variant {name}: a variant is named first, without a flag: {prog} {name} [--flags]")


def refuse_another_network(own: Any, asked: Any, source: str) -> None:
    """Stop where settings contradict the network that a checkpoint holds; say which ones an evaluation doesn't read."""
    changes = [line for line in differences(to_dict(own), to_dict(asked)) if not line.startswith(READ_LATER)]
    if contradictions := [line for line in changes if line.startswith(OF_THE_NETWORK)]:
        raise UserError(f"{source} holds another network than the settings ask for: {'; '.join(contradictions)}")
    if unread := [line.partition(":")[0] for line in changes if line.startswith(OF_TRAINING)]:
        print(f"of no effect on an evaluation: {', '.join(unread)}", file=sys.stderr)
