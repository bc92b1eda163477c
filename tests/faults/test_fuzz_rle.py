"""Run-length codes with something wrong in them, with the C library and without: the same masks or refusal."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.ops import masks as rle
from tests.faults.mutation import NUMBERS, answer, fuzz, junk

HEIGHT, WIDTH = 5, 7
SOUND = rle.encode(np.arange(3 * HEIGHT * WIDTH).reshape(3, HEIGHT, WIDTH) % 4 == 0)
SIDES = st.sampled_from([0, 1, HEIGHT, WIDTH, 2**15, 2**16, 2**31, 2**32 + 5, 2**63, -1, True, 5.0, "5", None])
STRINGS = st.sampled_from([code["counts"] for code in SOUND])
CHARACTERS = st.characters(min_codepoint=46, max_codepoint=113)


@st.composite
def strings(draw: st.DrawFn) -> str | bytes:
    """Counts as COCO compresses them, with some characters changed, and long runs of the largest digit."""
    text = list(draw(STRINGS | st.text(CHARACTERS, max_size=40)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = list(draw(st.text(CHARACTERS, max_size=3) | st.just("o" * 20)))
    return "".join(text).encode("ascii") if draw(st.booleans()) else "".join(text)


@st.composite
def codes(draw: st.DrawFn) -> Any:
    """Mostly of the right size, or the counts would never be looked at."""
    size = draw(st.just([HEIGHT, WIDTH]) | st.lists(SIDES, max_size=3) | junk)
    runs = st.lists(st.integers(0, HEIGHT * WIDTH) | st.sampled_from(NUMBERS), max_size=8)
    code = {"size": size, "counts": draw(strings() | runs | junk)}
    return draw(st.just(code) | st.sampled_from([{}, None, {"size": size}, [size]]) | junk)


@pytest.fixture(params=["the library", "fallback"])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """C where it was built, and hotcoco."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "fallback":
            patch.setattr(rle, "compiled", lambda: None)
        yield request.param


def fits(code: Any) -> bool:
    """Small enough to be decoded here."""
    return rle.size_of(code)[0] * rle.size_of(code)[1] <= 10_000


@fuzz(150)
@given(found=st.lists(codes(), max_size=3))
def test_codes_are_decoded_or_refused(engine: str, found: list[Any]) -> None:
    masks = answer(lambda: rle.decode(found)) if all(map(fits, found)) else None
    areas, boxes = answer(lambda: rle.area(found)), answer(lambda: rle.boxes(found))
    assert (areas is None) == (boxes is None)
    if masks is not None:
        assert areas is not None
        assert boxes is not None
        assert areas.tolist() == masks.sum(axis=(1, 2)).tolist()
        assert answer(lambda: rle.decode(rle.encode(masks))).tolist() == masks.tolist()
    if areas is not None and len({tuple(code["size"]) for code in found}) == 1:
        assert np.isfinite(rle.iou(found, found, np.zeros(len(found), bool))).all()
    for code in found:
        problem = rle.check(code, HEIGHT, WIDTH)
        bad = rle.first_bad([code], [[HEIGHT, WIDTH]])
        assert (problem is None) == (bad is None)


@fuzz(150)
@given(found=st.lists(codes(), min_size=1, max_size=3))
def test_both_ways_say_the_same(found: list[Any]) -> None:
    def everything() -> list[Any]:
        answers: list[Any] = [answer(lambda: rle.area(found)), answer(lambda: rle.boxes(found))]
        answers.append(answer(lambda: rle.decode(found)) if all(map(fits, found)) else None)
        return [None if each is None else each.tolist() for each in answers] + [
            rle.check(code, HEIGHT, WIDTH) for code in found
        ]

    compiled = everything()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rle, "compiled", lambda: None)
        assert everything() == compiled


@fuzz(150)
@given(
    polygons=st.lists(st.lists(st.sampled_from(NUMBERS) | st.floats(-50, 50) | st.integers(-9, 99), max_size=12))
    | junk,
    height=st.sampled_from([0, 1, HEIGHT, 100, 2**20]),
    width=st.sampled_from([0, 1, WIDTH, 100, 2**20]),
)
def test_polygons_are_drawn_or_refused(engine: str, polygons: Any, height: int, width: int) -> None:
    code = answer(lambda: rle.from_polygons(polygons, height, width))
    if code is not None:
        assert rle.check(code, height, width) is None


@fuzz(100)
@given(counts=st.lists(st.sampled_from(NUMBERS) | st.integers(-3, 40) | junk, max_size=9))
def test_plain_counts_are_read_or_refused(counts: list[Any]) -> None:
    code = answer(lambda: rle.from_counts(counts, HEIGHT, WIDTH))
    if code is not None:
        assert rle.decode([code]).shape == (1, HEIGHT, WIDTH)
        assert rle.area([code])[0] == sum(counts[1::2])
