"""The flags of a dataclass: its types and docstrings make the help, the ranges and the errors."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro


@dataclass
class Setting:
    flag: str  # --optimizer.lr; what has no flag: IMAGES
    kind: Any  # its type, with its range
    value: Any  # what it is if nobody says; MISSING: it has to be said
    text: str
    section: str  # what it is a part of, in a line


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
