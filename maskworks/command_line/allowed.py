"""Whether a value is in its setting's range (common/run/ranges.py), and that range in words."""

import math
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from msgspec import Meta

from common.run.ranges import MOST, MOST_AT_ONCE, MOST_WORKERS

UNSAID = (None, MOST, MOST_AT_ONCE, MOST_WORKERS)  # so high that only who asks for more is told
NAMES = {int: "a whole number", float: "a number", bool: "yes or no"}


def faults(kind: Any, value: Any) -> Iterator[tuple[Any, str]]:
    """Each part of a setting's value that its type doesn't allow, with what is expected there."""
    if get_origin(kind) is Annotated:
        base, *metadata = get_args(kind)
        if isinstance(value, float | int) and not all(allows(limit, value) for limit in limits(metadata)):
            passed = [limit.le for limit in limits(metadata) if limit.le in UNSAID[1:] and value > limit.le]
            yield value, expected(kind) + "".join(f", at most {most}" for most in passed)
        else:
            yield from faults(base, value)
    elif isinstance(value, tuple | list) and get_args(kind):
        kinds = get_args(kind) if get_args(kind)[1:] not in ((), (...,)) else get_args(kind)[:1] * len(value)
        for part, item in zip(kinds, value, strict=True):
            yield from faults(part, item)
    elif isinstance(value, float) and not math.isfinite(value):
        yield value, expected(float)


def allows(limit: Meta, value: float) -> bool:
    return (
        math.isfinite(value)
        and (limit.ge is None or value >= limit.ge)
        and (limit.gt is None or value > limit.gt)
        and (limit.le is None or value <= limit.le)
        and (limit.lt is None or value < limit.lt)
    )


def limits(metadata: Any) -> list[Meta]:
    return [entry for entry in metadata if isinstance(entry, Meta)]


def expected(kind: Any) -> str:
    """What a setting of this type may be, in words: "a whole number, 1 or more"."""
    if get_origin(kind) is Annotated:
        base, *metadata = get_args(kind)
        return ", ".join([expected(base), *(in_words(limit) for limit in limits(metadata))])
    if choices := choices_of(kind):
        return f"one of {', '.join(filter(None, choices))}"
    if get_origin(kind) in (tuple, list):
        parts = get_args(kind)
        inner = expected(parts[0])
        return f"{len(parts)} times {inner}" if parts[1:] not in ((), (...,)) else f"each {inner}"
    return NAMES.get(kind, "a text")


def choices_of(kind: Any) -> list[str]:
    """The words of a Literal, or of several; of other types none."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType, Annotated) else ()
    return [choice for part in parts for choice in choices_of(part)]


def in_words(limit: Meta) -> str:
    low = f"{limit.ge} or more" if limit.ge is not None else f"more than {limit.gt}" if limit.gt is not None else ""
    most = None if limit.le in UNSAID else limit.le
    if limit.ge is not None and most is not None:
        return f"{limit.ge} to {most}"
    high = f"at most {most}" if most is not None else f"less than {limit.lt}" if limit.lt is not None else ""
    return " and ".join(filter(None, (low, high)))
