"""A command line read into a dataclass, whose types and docstrings make the help, the ranges and the errors."""

import ast
import difflib
import inspect
import io
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise, takewhile
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from common.errors import UserError
from common.run.ranges import choices_of, expected, faults

T = TypeVar("T")
COLUMNS = 100
HELP = {"-h", "--help", "--help-all"}


@dataclass
class Setting:
    flag: str  # --optimizer.lr; what has no flag: IMAGES
    kind: Any  # its type, with its range
    value: Any  # what it is if nobody says; MISSING: it has to be said
    text: str
    section: str  # what it is a part of, in a line


def read(kind: type[T], prog: str, words: Sequence[str] | None = None, default: T | None = None, file: str = "") -> T:
    """The settings that a command line, or a file's words, give; a mistake is one line, which names the file."""
    words = list(sys.argv[1:] if words is None else words)
    table = {setting.flag: setting for setting in settings_of(kind, default)}
    if HELP & set(words):
        needed = " ".join(f"{s.flag} {name_of(s)}".strip() for s in table.values() if s.value is MISSING)
        print("\n".join([f"usage: {prog} {needed} [--flags]".replace("  ", " "), "", *in_full(table.values())]))
        raise SystemExit(0)
    where = f"{file}: " if file else ""
    said = io.StringIO()
    try:
        refuse_unknown(words, table, where)
        with redirect_stderr(said):
            base: Any = tyro.MISSING_NONPROP if default is None else default
            options: T = tyro.cli(kind, args=words, prog=prog, default=base)
    except SystemExit as end:
        if not end.code:  # --tyro-print-completion
            raise
        raise UserError(where + explained(said.getvalue(), words, table)) from end
    for setting in settings_of(kind, options):
        for value, allowed in faults(setting.kind, setting.value):
            raise UserError(f"{where}{setting.flag} {value}: expected {allowed}")
    return options


# --- the table


def settings_of(kind: Any, values: Any = None, prefix: str = "--", section: str = "") -> Iterator[Setting]:
    """Every setting of a dataclass and of those within it, with its value in `values`, or else its default."""
    hints = get_type_hints(kind, include_extras=True)
    section = section or first_sentence(kind.__doc__)
    for field in fields(kind):
        hint = hints[field.name]
        plain, *metadata = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        given = [m.name for m in metadata if getattr(m, "name", None) is not None]
        name = given[0] if given else field.name.replace("_", "-")
        value = field.default if field.default_factory is MISSING else field.default_factory()
        value = value if values is None else getattr(values, field.name)
        if is_dataclass(plain):
            dotted = f"{prefix}{name}." if name else prefix
            yield from settings_of(plain, None if value is MISSING else value, dotted, first_sentence(plain.__doc__))
            continue
        aliases = [alias for m in metadata for alias in getattr(m, "aliases", None) or ()]
        flag = name.upper() if tyro.conf.Positional in metadata else f"{prefix}{name}"
        for each in (*aliases, flag):
            yield Setting(each, hint, value, documented(kind)[field.name], section)


def first_sentence(text: str | None) -> str:
    return re.split(r"(?<=[.;:]) ", " ".join((text or "").split()))[0].rstrip(".;:")


@cache
def documented(kind: type) -> dict[str, str]:
    """What stands under each field of a dataclass, those of its parents among them."""
    found = {}
    for each in [parent for parent in reversed(kind.__mro__) if is_dataclass(parent)]:
        body = ast.parse(textwrap.dedent(inspect.getsource(each))).body[0]
        assert isinstance(body, ast.ClassDef)
        for entry, after in pairwise([*body.body, ast.Pass()]):
            if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
                text = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                found[entry.target.id] = " ".join(str(text).split())
    return found


# --- mistakes


def refuse_unknown(words: Sequence[str], table: Mapping[str, Setting], where: str) -> None:
    for word in words:
        flag = flag_of(word)
        if flag.startswith("--") and flag not in table and not flag.startswith("--tyro-"):
            hint = nearest(flag, table) or "; --help-all names all"
            raise UserError(f"{where}{word.partition('=')[0]}: no such flag{hint}")


def flag_of(word: str) -> str:
    """--no_report, --data.no-keep-empty=... -> --report, --data.keep-empty"""
    return word.partition("=")[0].replace("_", "-").replace("--no-", "--").replace(".no-", ".")


def nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def explained(said: str, words: Sequence[str], table: Mapping[str, Setting]) -> str:
    """What tyro says in a box, as a line."""
    flags = [flag_of(word) for word in words]
    for flag in re.findall(r"--[\w.-]+", said):
        setting = table.get(flag_of(flag))
        if setting and setting.value is MISSING and flag not in flags:
            return f"{flag} is needed: {setting.text}"
        if setting and flag in flags:
            after = words[flags.index(flag) + 1 :]
            values = [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]
            values = values or list(takewhile(lambda word: not word.startswith("--"), after))
            hint = nearest(values[-1], choices_of(setting.kind)) if values else ""
            return f"{' '.join([flag, *values])}: expected {expected(setting.kind)}{hint}"
    lines = [line.strip("│ ") for line in said.splitlines()[1:]]  # under the title; where no boxes can be drawn, a rule
    lines = lines[1:] if lines and lines[0].startswith("--") and not lines[0].strip("-") else lines
    text = " ".join(takewhile(lambda line: line.strip("─╰╯-"), lines))
    return text.replace("Unrecognized options:", "not understood here:")


# --- help


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
