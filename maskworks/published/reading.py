"""What a file's configuration (as data) says under our settings' names: each value read as its kind, or refused."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import UserError
from maskworks.published.origin import Origin, Said, at

Read = Callable[[Any], Any]  # what is in the configuration -> the setting's value, or ValueError
Settings = dict[str, tuple[Read, tuple[str, ...]]]  # our setting: how it is read, and where it may stand


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number")
    return value


def whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    return value


def whole_numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("whole numbers")
    return tuple(map(whole_number, value))


def one_of(*words: str) -> Read:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(" or ".join(words))
        return str(value)

    return read


def three_numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError("three numbers")
    return tuple(float(number(each)) for each in value)


def four_numbers(value: Any) -> tuple[float, ...]:
    """The weights or deviations of a box's deltas."""
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not all(number(each) > 0 for each in value):
        raise ValueError("four numbers above 0")
    return tuple(map(float, value))


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def said(origin: Origin, settings: Settings) -> dict[str, Said]:
    """Of each setting what the first of its paths gives, where the configuration has one of them."""
    found = {}
    for setting, (read, paths) in settings.items():
        for path in paths:
            if (value := at(origin.recipe, path)) is not None:
                found[setting] = read_value(origin, read, value, path)
                break
    return found


def refuse_others(origin: Origin, types: Mapping[str, Sequence[Any]], system: str) -> None:
    """Stop if the configuration has something that `system` doesn't do: at each path, one of the values, or nothing."""
    for path, allowed in types.items():
        value = at(origin.recipe, path)
        if value is not None and value not in allowed:
            raise UserError(
                f"{origin.path}: its configuration has {path} = {reprlib.repr(value)}, which {system} does not do; "
                f"known: {', '.join(map(str, allowed))}"
            )


def read_value(origin: Origin, read: Read, value: Any, place: str) -> Said:
    try:
        return Said(read(value), f"its configuration, {place}")
    except ValueError as error:
        raise UserError(
            f"{origin.path}: its configuration has {reprlib.repr(value)} for {place}; expected {error}"
        ) from error
