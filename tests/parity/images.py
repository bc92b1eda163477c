"""The photographs of a case: any number of them, each compared as a case of its own, grey ones in three channels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tests.parity.case import Array, Case

PHOTOGRAPH = re.compile(r"(train_)?image[_/]?\d*")


def in_colour(case: Case) -> Case:
    """The case with its grey photographs [H, W] or [H, W, 1] as what every original reads: three equal channels."""

    def coloured(name: str, value: Array) -> Array:
        photograph = PHOTOGRAPH.fullmatch(name.removeprefix("in/")) and value.dtype == np.uint8
        if photograph and (value.ndim == 2 or value.shape[2:] == (1,)):
            return np.repeat(value.reshape(*value.shape[:2], 1), 3, axis=2)
        return value

    return replace(case, arrays={name: coloured(name, value) for name, value in case.arrays.items()})


def one_by_one(case: Case) -> Iterator[tuple[Case, dict[str, str]]]:
    """The case itself, then one for each further photograph that outputs are named after ("scores/image2" or
    "image2/scores"): a case of that `image` alone, and its arrays' names -> what they are called in the whole case.

    What isn't named after a photograph belongs to the case itself.
    """
    own = {photograph: names_after(case, photograph) for photograph in photographs(case)}
    taken = {name for names in own.values() for name in names.values()}
    arrays = {name: value for name, value in case.arrays.items() if name not in taken}
    yield replace(case, arrays=arrays), {name: name for name in arrays}
    constants = {name: value for name, value in case.arrays.items() if name.startswith("const/")}
    for photograph, names in own.items():
        if names:
            alone = {plain: case.arrays[name] for plain, name in names.items()}
            image = {"in/image": case.arrays[f"in/{photograph}"]}
            yield replace(case, arrays=constants | image | alone), names


def photographs(case: Case) -> list[str]:
    """All inputs that the spec lists as images, else all that are called so."""
    stated = case.spec.get("images")
    names = stated if isinstance(stated, list) and all(name in case.inputs for name in stated) else list(case.inputs)
    return [name for name in names if stated == names or re.fullmatch(r"image[_/]?\d*", name)]


def names_after(case: Case, photograph: str) -> dict[str, str]:
    """What belongs to a photograph: "out/scores" -> "out/scores/image2", wherever the photograph's name stands."""
    named: dict[str, str] = {}
    others = photographs(case)
    for name in case.arrays:
        section, _, rest = name.partition("/")
        plain = rest.removeprefix(f"{photograph}/").removesuffix("@sample").removesuffix(f"/{photograph}")
        sampled = "@sample" if rest.endswith("@sample") else ""
        longer = any(rest.startswith(f"{each}/") for each in others if each.startswith(f"{photograph}/"))
        if section in ("in", "out") and plain + sampled != rest and rest not in others and not longer:
            named[f"{section}/{plain}{sampled}"] = name
    return named
