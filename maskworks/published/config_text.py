"""A configuration in a checkpoint as data: YAML, or Python's assignments of literals, dict(...) and names bound before.

Nothing is run. Early files of MMDetection 2 keep the texts of a configuration and of those that it is based on one
after the other, each after a line with its path: there a dictionary changes the one of its name, as in MMCV.
"""

import ast
import math
import re
import warnings
from typing import Any, NoReturn

import yaml

PATH_LINE = re.compile(r"^[^\s'\"#]+\.py$", re.MULTILINE)
LONGEST = 500_000  # characters; MMDetection's longest are under 50,000
NUMBERS = {"inf": math.inf, "nan": math.nan}  # how Python prints what is no literal


class NotDataError(ValueError):
    """Something in the text is more than data."""


def read_config(text: str) -> tuple[dict[str, Any], list[str]]:
    """The values that a text assigns, and for each statement that is not plain data one line that says so."""
    if len(text) > LONGEST:
        return {}, [f"its configuration has {len(text)} characters, and is ignored"]
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes in its strings
            statements = ast.parse(PATH_LINE.sub("", text)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {}, [f"its configuration is not a Python file ({type(error).__name__}), and is ignored"]
    values: dict[str, Any] = {}
    notes: list[str] = []
    merging = PATH_LINE.search(text) is not None
    for statement in statements:
        try:
            _assign(statement, values, merging)
        except (NotDataError, RecursionError, TypeError) as error:
            notes.append(f"line {statement.lineno} of its configuration is ignored: {error or 'not plain data'}")
    return values, notes


class _Plain(yaml.SafeLoader):
    """Objects of Python are read as what they are made of, none is built."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merges (`<<`) stay what they are: nested ones double with each level."""


def _parts(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        content = loader.construct_mapping(node, deep=True)
        return content.get("dictitems", content)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else str(node.value)


_Plain.add_multi_constructor("tag:yaml.org,2002:python/", _parts)


def read_yaml(text: str) -> tuple[dict[str, Any], list[str]]:
    """Detectron's and maskrcnn-benchmark's configurations, which they print with Python's dictionaries and arrays."""
    try:
        content = yaml.load(text[:LONGEST], _Plain)  # a subclass of the safe loader
    except (yaml.YAMLError, ArithmeticError, ValueError, TypeError, RecursionError) as error:
        return {}, [f"its configuration is not YAML ({type(error).__name__}), and is ignored"]
    return (content, []) if isinstance(content, dict) else ({}, ["its configuration has no settings, and is ignored"])


def _assign(statement: ast.stmt, values: dict[str, Any], merging: bool) -> None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return  # a text that stands for itself, as a comment
    if not isinstance(statement, ast.Assign) or not all(isinstance(target, ast.Name) for target in statement.targets):
        raise NotDataError(f"{type(statement).__name__} is no assignment to a name")
    names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
    older = {name: values.pop(name, None) for name in names}  # what can't be read must not leave an older value
    value = _value(statement.value, values | older)
    values.update({name: _merged(older[name], value) if merging else value for name in names})


def _merged(older: Any, newer: Any) -> Any:
    if not isinstance(older, dict) or not isinstance(newer, dict):
        return newer
    if newer.get("_delete_"):
        return {key: value for key, value in newer.items() if key != "_delete_"}
    return older | {key: _merged(older.get(key), value) for key, value in newer.items()}


def _value(node: ast.expr, known: dict[str, Any]) -> Any:
    found: Any
    match node:
        case ast.Constant():
            found = node.value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            found = (list if isinstance(node, ast.List) else tuple)(_value(item, known) for item in items)
        case ast.Dict(keys=keys, values=items):
            pairs = zip(keys, items, strict=True)
            found = {_value(key or _refuse(node), known): _value(item, known) for key, item in pairs}
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=int() | float() as number)):
            found = -number if isinstance(node.op, ast.USub) else number
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=named):
            parts = [(item.arg, _value(item.value, known)) for item in named]
            found = {}
            for name, value in parts:
                found |= value if name is None else {name: value}
        case ast.Name(id=name) if name in known or name in NUMBERS:
            found = known.get(name, NUMBERS.get(name))
        case _:
            _refuse(node)
    return found


def _refuse(node: ast.expr) -> NoReturn:
    raise NotDataError(f"{type(node).__name__} is not plain data")
