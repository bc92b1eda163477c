"""RLE equals pycocotools, with the C library and without it, and refuses what does not describe a mask."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco

from common.errors import UserError
from common.ops import masks as rle


@pytest.fixture(params=["compiled", "fallback"], autouse=True, scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test here runs with the C library and without it."""
    if request.param == "compiled" and rle.compiled() is None:
        pytest.skip("the C library is not built")
    patch = pytest.MonkeyPatch()
    if request.param == "fallback":
        patch.setattr(rle, "compiled", lambda: None)
    yield request.param
    patch.undo()


def reference(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """pycocotools' own RLEs of masks [N, H, W]."""
    stack = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [{"size": list(each["size"]), "counts": each["counts"].decode()} for each in coco.encode(stack)]


def blobs(number: int, height: int, width: int, seed: int) -> NDArray[np.bool_]:
    """Masks with some structure: smoothed noise, cut at a level."""
    noise = np.random.default_rng(seed).standard_normal((number, height + 4, width + 4))
    smooth = sum(noise[:, i : i + height, j : j + width] for i in range(5) for j in range(5))
    return np.asarray(smooth > 0)


small_masks = npst.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 140)))


@given(small_masks)
def test_encodes_as_pycocotools_and_back(masks: NDArray[np.bool_]) -> None:
    encoded = rle.encode(torch.from_numpy(masks))
    assert encoded == reference(masks)
    np.testing.assert_array_equal(rle.decode(encoded), masks)


@pytest.mark.parametrize("shape", [(3, 480, 640), (2, 33, 257), (1, 500, 1), (1, 1, 500), (2, 64, 64), (1, 70, 1000)])
def test_encodes_larger_masks_as_pycocotools(shape: tuple[int, int, int]) -> None:
    masks = np.concatenate([blobs(*shape, seed=1), np.zeros((1, *shape[1:]), bool), np.ones((1, *shape[1:]), bool)])
    assert rle.encode(masks) == reference(masks)
    np.testing.assert_array_equal(rle.decode(reference(masks)), masks)


def test_takes_any_layout_and_number_type() -> None:
    masks = blobs(2, 20, 30, seed=2)
    tensor = torch.from_numpy(masks)
    expected = reference(masks)
    assert rle.encode(tensor.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == expected
    assert rle.encode(tensor.float() * 0.5) == expected
    assert rle.encode(masks.astype(np.uint8) * 255) == expected
    assert rle.encode(np.asfortranarray(masks)) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [(np.uint8, 2), (np.uint8, 255), (np.int8, -1), (np.int16, 256), (np.int64, 2**40), (np.float16, 0.2), (float, -7)],
)
def test_whatever_is_not_zero_belongs_to_a_mask(kind: Any, value: float) -> None:
    masks = blobs(2, 9, 12, seed=3)
    numbers = np.where(masks, value, 0).astype(kind)
    assert rle.encode(numbers) == rle.encode(torch.from_numpy(numbers)) == reference(masks)


def test_masks_beyond_the_largest_area_are_refused_before_memory_is_taken() -> None:
    assert rle.MAX_AREA == 2**31
    with pytest.raises(UserError, match="at most 2147483648 pixels"):
        rle.encode(np.broadcast_to(np.zeros((), bool), (1, 2**16, 2**15 + 1)))
    sides, runs = [2**16, 2**15 + 1], [2**31 + 2**16]
    with pytest.raises(UserError, match="out of range"):
        rle.from_counts(runs, *sides)
    text = {"size": sides, "counts": coco.frPyObjects({"size": sides, "counts": runs}, *sides)["counts"].decode()}
    for broken in (text, {"size": sides, "counts": runs}, {"size": [2**32, 2**32], "counts": "0"}):
        with pytest.raises(UserError, match=r"RLE 0: .*out of range"):
            rle.area([broken])
        assert rle.first_bad([broken], [broken["size"]]) is not None
    largest = rle.from_counts([2**31], 2**16, 2**15)
    assert rle.area([largest]).tolist() == [0]


@pytest.mark.parametrize("shape", [(0, 4, 5), (2, 0, 5), (2, 5, 0)])
def test_nothing_to_encode(shape: tuple[int, int, int]) -> None:
    masks = np.zeros(shape, bool)
    encoded = rle.encode(masks)
    assert [each["counts"] for each in encoded] == ["0"] * shape[0]
    assert [rle.check(each, *shape[1:]) for each in encoded] == [None] * shape[0]
    assert rle.check_polygons([[0.0, 0.0, 3.0, 0.0, 3.0, 3.0]], *shape[1:]) is None
    assert rle.decode(encoded).shape == (shape if shape[0] else (0, 0, 0))


@given(small_masks)
def test_area_boxes_and_iou_equal_pycocotools(masks: NDArray[np.bool_]) -> None:
    encoded = reference(masks)
    crowd = np.arange(len(masks)) % 2 == 1
    np.testing.assert_array_equal(rle.area(encoded), coco.area(encoded))
    np.testing.assert_array_equal(rle.boxes(encoded), coco.toBbox(encoded))
    expected = coco.iou(encoded, encoded[::-1], [int(each) for each in crowd])
    np.testing.assert_array_equal(rle.iou(encoded, encoded[::-1], crowd), expected)


counts_of_35 = st.lists(st.integers(0, 35), max_size=8).map(lambda cuts: np.diff([0, *sorted(cuts), 35]).tolist())


@given(counts_of_35)
def test_runs_of_no_length_are_read_as_any_other(counts: list[int]) -> None:
    ours, theirs = rle.from_counts(counts, 5, 7), coco.frPyObjects({"size": [5, 7], "counts": counts}, 5, 7)
    assert ours["counts"] == theirs["counts"].decode()
    np.testing.assert_array_equal(rle.decode([ours])[0], coco.decode(theirs).astype(bool))
    assert rle.area([ours]) == coco.area(theirs)
    # Boxes and IoU by pixels: pycocotools' box of a run without length is wild.
    mask = coco.decode(theirs).astype(bool)
    clean = rle.encode(mask[None])
    np.testing.assert_array_equal(rle.boxes([ours]), rle.boxes(clean))
    half = rle.encode(np.arange(35).reshape(1, 5, 7) % 2 == 1)
    np.testing.assert_array_equal(rle.iou([ours], half, np.array([False])), rle.iou(clean, half, np.array([False])))


coordinate = st.one_of(st.floats(-30, 60), st.integers(-30, 60), st.integers(-60, 120).map(lambda v: v / 2))
polygon = st.lists(coordinate, min_size=6, max_size=16).filter(lambda p: len(p) % 2 == 0)


@settings(max_examples=300)
@given(st.lists(polygon, min_size=1, max_size=3), st.integers(1, 40), st.integers(1, 40))
def test_polygons_equal_pycocotools(polygons: list[list[float]], height: int, width: int) -> None:
    expected = coco.merge(coco.frPyObjects(polygons, height, width))
    drawn = rle.from_polygons(polygons, height, width)
    assert drawn == {"size": [height, width], "counts": expected["counts"].decode()}


@pytest.mark.parametrize(
    "polygon",
    [
        [3.0, 4.0] * 3,  # a point
        [1.0, 1.0, 9.0, 9.0, 1.0, 1.0],  # a line there and back
        [-5.0, -5.0, 50.0, -5.0, 50.0, 50.0, -5.0, 50.0],  # around the whole image
        [-20.0, -20.0, -20.0, -20.0, -10.0, -3.0],  # outside, with a corner twice
        [0.0, 0.0, 0.0, 40.0, 1e6, 0.0],  # far beyond the image
    ],
)
def test_degenerate_polygons_equal_pycocotools(polygon: list[float]) -> None:
    expected = coco.merge(coco.frPyObjects([polygon], 20, 30))["counts"].decode()
    assert rle.from_polygons([polygon], 20, 30)["counts"] == expected


@pytest.mark.parametrize(
    ("polygons", "words"),
    [
        ([], "at least one polygon"),
        ([[1.0, 2.0, 3.0, 4.0]], "3 corners"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], "3 corners"),
        ([[1.0, 2.0, 3.0, float("nan"), 5.0, 6.0]], "not finite"),
        ([[1.0, 2.0, 3.0, 1e30, 5.0, 6.0]], "not finite"),
        ([["a"] * 6], "list of numbers"),
        ([[[1, 2], [3]] * 3], "list of numbers"),
        ([[0.0, 0.0, 1e6, 0.0] * 20], "longer than"),
    ],
)
def test_refuses_polygons_that_cannot_be_drawn(polygons: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rle.from_polygons(polygons, 10, 10)


HUGE = 2**40
BROKEN: list[tuple[Any, str]] = [
    ("nonsense", "must be"),
    ({"counts": "0"}, "must be"),
    ({"size": [5, 7], "counts": ""}, "empty"),
    ({"size": [5, 7], "counts": "Y"}, "cut off"),
    ({"size": [5, 7], "counts": "S1é"}, "not ASCII"),
    ({"size": [5, 7], "counts": "S1 "}, "outside of the code"),
    ({"size": [5, 7], "counts": "ooooooooooooooo0"}, "too many"),
    ({"size": [5, 7], "counts": "R1"}, "sum to 34"),
    ({"size": [5, 7], "counts": "T1O"}, "negative"),
    ({"size": [5, 7], "counts": [36, -1]}, "count 0 is 36"),
    ({"size": [5, 7], "counts": [3, -1, 33]}, "count 1 is -1"),
    ({"size": [5, 7], "counts": [35.0]}, "whole number"),
    ({"size": [5, 7], "counts": [True, 34]}, "whole number"),
    ({"size": [5, 7], "counts": [HUGE, 35 - HUGE]}, "count 0"),
    ({"size": [5, 7], "counts": []}, "sum to 0"),
    ({"size": [5, 7], "counts": None}, "string or a list"),
    ({"size": [HUGE, HUGE], "counts": "0"}, "out of range"),
    ({"size": [-5, -7], "counts": "S1"}, "out of range"),
    ({"size": [5.0, 7.0], "counts": "S1"}, "size must be"),
    ({"size": [5], "counts": "S1"}, "size must be"),
    ({"size": "57", "counts": "S1"}, "size must be"),
]


@pytest.mark.parametrize(("broken", "words"), BROKEN)
def test_refuses_rles_that_describe_no_mask(broken: Any, words: str) -> None:
    good = {"size": [5, 7], "counts": "S1"}
    assert rle.check(good, 5, 7) is None
    size = broken["size"] if isinstance(broken, dict) and "size" in broken else [5, 7]
    height, width = size if len(size) == 2 else (5, 7)
    assert words in str(rle.check(broken, height, width))
    for function in (rle.decode, rle.area, rle.boxes):
        with pytest.raises(UserError, match=f"RLE 1: .*{words}"):
            function([good, broken])
    found = rle.first_bad([good, broken, good], [[5, 7]] * 3)
    assert found is not None
    assert found[0] == 1


def test_first_bad_names_a_mask_of_another_images_size() -> None:
    rles = [{"size": [5, 7], "counts": "S1"}, {"size": [7, 5], "counts": "S1"}]
    assert rle.first_bad(rles, [[5, 7], [7, 5]]) is None
    found = rle.first_bad(rles, [[5, 7], [5, 7]])
    assert found is not None
    assert found[0] == 1
    assert "for an image of" in found[1]


@settings(max_examples=300)
@given(st.text(alphabet=st.characters(min_codepoint=46, max_codepoint=113), max_size=12))
def test_any_string_is_decoded_as_pycocotools_or_refused(text: str) -> None:
    given_rle = {"size": [3, 4], "counts": text}
    problem = rle.check(given_rle, 3, 4)
    found = rle.first_bad([given_rle], [[3, 4]])
    assert (problem is None) == (found is None)
    if problem is None:
        np.testing.assert_array_equal(rle.decode([given_rle])[0], coco.decode(given_rle).astype(bool))
    else:
        with pytest.raises(UserError):
            rle.decode([given_rle])


def test_reads_uncompressed_counts_and_bytes_like_strings() -> None:
    forms = [{"size": [5, 7], "counts": each} for each in ([5, 4, 26], b"54j0", "54j0")]
    decoded = rle.decode(forms)
    assert rle.area(forms).tolist() == [4, 4, 4]
    assert (decoded == decoded[0]).all()
    assert decoded[0].sum() == decoded[0, :4, 1].sum() == 4


def test_refuses_masks_of_different_sizes() -> None:
    a, b = {"size": [5, 7], "counts": "S1"}, {"size": [7, 5], "counts": "S1"}
    with pytest.raises(UserError, match="one size"):
        rle.decode([a, b])
    with pytest.raises(UserError, match="different sizes"):
        rle.iou([a], [b], np.array([False]))


def test_where_no_memory_is_left_encoding_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(masks_encode=lambda *_: -1, masks_free=lambda _: None)
    monkeypatch.setattr(rle, "compiled", lambda: library)
    with pytest.raises(MemoryError, match="no memory left"):
        rle.encode(np.ones((1, 2, 2), bool))
