"""What --help prints: the settings that people change, on a screen; --help-all: every setting."""

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from maskworks.command_line.allowed import expected
from maskworks.command_line.table import Setting, settings_of

COLUMNS = 100
HELP = {"-h", "--help", "--help-all"}
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


def help_page(variants: Mapping[str, Any], own: Any, prog: str, everything: bool) -> Iterator[str]:
    """Usage, variants and the settings that people change, on a screen; or every setting."""
    settings = list(settings_of(type(own), own))
    yield f"usage: {prog} [VARIANT] [--config FILE.yaml] [--flags]"
    yield ""
    if everything:
        yield from in_full(setting for setting in settings if setting.flag != "--variant")
        return
    yield from textwrap.wrap(f"{type(own).__doc__} Without VARIANT: {next(iter(variants))}.", COLUMNS)
    for name, config in variants.items():
        yield from entry(name, [variant_line(config)])
    yield ""
    by_flag = {setting.flag: setting for setting in settings}
    yield from in_brief(by_flag[flag] for flag in (TO_TRAIN if prog == "train.py" else TO_EVALUATE))
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


def program_page(prog: str, settings: Collection[Setting]) -> Iterator[str]:
    """Of a program without variants: usage and every setting."""
    needed = " ".join(f"{s.flag} {name_of(s)}".strip() for s in settings if s.value is MISSING)
    yield f"usage: {prog} {needed} [--flags]".replace("  ", " ")
    yield ""
    yield from in_full(settings)


def in_full(settings: Iterable[Setting]) -> Iterator[str]:
    """All settings by section, each with what it does, its range and what it is now."""
    section = text = ""
    for setting in settings:
        if setting.section != section:
            yield f"{setting.section}:"
        elif setting.text == text:  # the same by another name
            continue
        section, text = setting.section, setting.text
        allowed = expected(setting.kind)
        notes = [] if allowed in ("a text", "each a text", "yes or no") else [allowed]
        if setting.value not in (MISSING, "", [], ()):
            notes.append(f"default {in_words(setting.value)}")
        noted = f"{setting.text} ({'; '.join(notes)})" if notes else setting.text
        yield from entry(setting.flag, textwrap.wrap(noted, COLUMNS - 26))


def in_brief(settings: Iterable[Setting]) -> Iterator[str]:
    """A line for each of the settings."""
    for setting in settings:
        yield from entry(setting.flag, [textwrap.shorten(setting.text, COLUMNS - 26, placeholder=" ...")])


def entry(name: str, lines: Sequence[str]) -> Iterator[str]:
    """A name, and beside it (below, where both are long) what is said of it."""
    first, *rest = lines or [""]
    if len(name) > 22 and len(name) + len(first) + 4 > COLUMNS:
        yield f"  {name}"
        yield f"{'':26}{first}"
    else:
        yield f"  {name:22}  {first}"
    yield from (f"{'':26}{line}" for line in rest)


def in_words(value: Any) -> str:
    return " ".join(map(in_words, value)) if isinstance(value, tuple | list) else str(value)


def name_of(setting: Setting) -> str:
    return setting.flag.lstrip("-").rpartition(".")[2].upper() if setting.flag.startswith("-") else ""
