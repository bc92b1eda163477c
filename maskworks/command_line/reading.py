"""Words -> settings by tyro, and what it says of a mistake as a line."""

import difflib
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import MISSING
from itertools import takewhile
from typing import Any, TypeVar

import tyro

from common.errors import UserError
from maskworks.command_line.allowed import choices_of, expected, faults
from maskworks.command_line.help import HELP, program_page
from maskworks.command_line.table import Setting, settings_of

T = TypeVar("T")


def read(kind: type[T], prog: str, words: Sequence[str] | None = None, default: T | None = None, file: str = "") -> T:
    """The settings that a command line, or a file's words, give; a mistake is one line, which names the file."""
    words = list(sys.argv[1:] if words is None else words)
    table = {setting.flag: setting for setting in settings_of(kind, default)}
    if HELP & set(words):
        print("\n".join(program_page(prog, table.values())))
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
