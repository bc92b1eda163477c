"""Documents with something wrong in them: junk put in, things taken out, doubled or moved, at random places."""

import os
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from common.errors import UserError

T = TypeVar("T")
THOROUGHLY = int(os.environ.get("MASKWORKS_FUZZ", "1"))  # so many times as many cases as in the usual suite

NUMBERS = [0, -1, 1, 2**31, -(2**31) - 1, 2**63 - 1, 2**63, -(2**63), 10**40, 0.5, 640.0, 1e308, -1e308, 5e-324, 1e20]
NUMBERS += [float("nan"), float("inf"), -float("inf")]
TEXTS = ["", "5", "640", "nan", "-Infinity", "a.png", "../a.png", "/etc/passwd", "\0", "\ud800", "日本", "é" * 300]
junk = st.recursive(
    st.sampled_from([None, True, False, *NUMBERS, *TEXTS]) | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def fuzz(cases: int) -> Callable[[T], T]:
    """So many cases, the same in each run of the usual suite."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(  # type: ignore[return-value]
        max_examples=cases * THOROUGHLY,
        deadline=None,
        derandomize=THOROUGHLY == 1,
        database=None,
        suppress_health_check=checks,
    )


def places(document: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a tree of dictionaries and lists."""
    found = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        found.append((document, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


@st.composite
def mutated(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """A copy of a document with one to `most` things wrong."""
    document = deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        found = places(document)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        kind = draw(st.sampled_from(["junk", "junk", "junk", "remove", "double", "elsewhere", "number"]))
        if kind == "junk":
            container[key] = draw(junk)
        elif kind == "remove":
            del container[key]
        elif kind == "double" and isinstance(container, list):
            container.insert(key, deepcopy(container[key]))
        elif kind == "elsewhere":
            other, name = draw(st.sampled_from(found))
            container[key] = deepcopy(other[name])
        elif kind == "number":
            container[key] = draw(st.sampled_from(NUMBERS))
    return document


def answer(function: Callable[[], T], one_line: bool = True) -> T | None:
    """What a function returns; None where it refuses in a line. Any other exception is a fault of ours."""
    try:
        return function()
    except UserError as error:
        assert str(error)
        assert not one_line or "\n" not in str(error)
        return None
