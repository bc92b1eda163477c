"""How an output is compared: a rule turns (computed, expected) into an error, which has its tolerance.

An array of another shape, and a NaN or an infinity where the original has a number, is an infinite error.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
INFINITE = math.inf


@dataclass(frozen=True)
class Rule:
    """One way to compare: passes where error(computed, expected) <= tolerance.

    `measured` is only asked where the error exceeds the tolerance: it says how far float32 itself leaves the
    value open, and no output can be held to less than that.
    """

    name: str
    tolerance: float
    error: Callable[[Array, Array], float]
    measured: Callable[[], float] | None = None


def relative_error(computed: Array, expected: Array) -> float:
    """The norm of the difference as a fraction of the expected array's norm."""
    if computed.shape != expected.shape or not np.isfinite(computed).all():
        return INFINITE
    difference = computed.astype(np.float64) - expected.astype(np.float64)
    scale = float(np.linalg.norm(expected.astype(np.float64).reshape(-1)))
    return float(np.linalg.norm(difference.reshape(-1))) / max(scale, 1e-12)


def relative(tolerance: float, measured: Callable[[], float] | None = None) -> Rule:
    return Rule("relative", tolerance, relative_error, measured)


def relative_nan_as_zero(tolerance: float) -> Rule:
    """Relative; where the original divides 0 by 0, a 0 is as good as its NaN."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return INFINITE
        undefined = np.isnan(expected)
        both = undefined & np.isnan(computed)
        return relative_error(np.where(both, 0, computed), np.where(undefined, 0, expected))

    return Rule("relative, NaN as 0", tolerance, error)


def absolute(tolerance: float, measured: Callable[[], float] | None = None) -> Rule:
    """The largest difference; a NaN of the original must be a NaN here."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return INFINITE
        if not np.array_equal(np.isnan(computed), np.isnan(expected)):
            return INFINITE
        defined = ~np.isnan(expected)
        return largest(np.abs(computed[defined].astype(np.float64) - expected[defined].astype(np.float64)))

    return Rule("absolute", tolerance, error, measured)


def elementwise(tolerance: float, where: Array | None = None) -> Rule:
    """The largest |difference| / (1 + |expected|) of all elements, or those `where`; all must be finite."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape or not np.isfinite(computed).all():
            return INFINITE
        difference = np.abs(computed.astype(np.float64) - expected.astype(np.float64))
        scaled = difference / (1 + np.abs(expected.astype(np.float64)))
        return largest(scaled if where is None else scaled[where])

    return Rule("elementwise", tolerance, error)


def exact() -> Rule:
    """Equal, and in the same order: the error is the number of elements that differ."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return INFINITE
        return float(np.count_nonzero(computed != expected))

    return Rule("exact", 0.0, error)


def mask_bits(tolerance: float) -> Rule:
    """Packed masks: differing pixels, as a fraction of the pixels that the original's masks cover."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape or computed.dtype != np.uint8:
            return INFINITE
        differing = int(np.unpackbits(np.bitwise_xor(computed, expected)).sum())
        return differing / max(int(np.unpackbits(expected).sum()), 1)

    return Rule("mask pixels", tolerance, error)


def mask_bits_except(undecided: Array) -> Rule:
    """Packed masks: equal but for the pixels that are `undecided` (within rounding of the threshold)."""

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape or computed.dtype != np.uint8:
            return INFINITE
        differing = np.unpackbits(np.bitwise_xor(computed, expected))[: undecided.size].astype(bool)
        return float(np.count_nonzero(differing & ~undecided.reshape(-1)))

    return Rule("exact mask", 0.0, error)


def as_text(value: object) -> Array:
    """JSON, as arrays hold the texts that some originals write."""
    return np.array(json.dumps(value))


def same_json() -> Rule:
    """UTF-8 JSON in bytes: 0 when both say the same, strings to the last character, else 1."""

    def error(computed: Array, expected: Array) -> float:
        return 0.0 if json.loads(computed.tobytes()) == json.loads(expected.tobytes()) else 1.0

    return Rule("same JSON", 0.0, error)


def first_of(choices: Iterable[tuple[str, Rule]], name: str) -> Rule | None:
    """The rule beside the first pattern that is the whole of an output's name."""
    return next((rule for pattern, rule in choices if re.fullmatch(pattern, name)), None)


def largest(errors: Array) -> float:
    return float(errors.max()) if errors.size else 0.0


def stated(text: object, limit: float) -> float:
    """The tolerance a spec states as a number or in words ("1e-5 relative where finite"); at most `limit`."""
    if isinstance(text, int | float):
        return min(float(text), limit)
    number = re.search(r"(?<![\w.])\d+(\.\d+)?(e-?\d+)?", str(text))
    return min(float(number.group()), limit) if number else limit
