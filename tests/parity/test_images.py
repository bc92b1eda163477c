"""Cases with other numbers of photographs, and grey ones: every output is compared, and fails by its own name."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.images import in_colour
from tests.parity.runner import run_case


@pytest.fixture(autouse=True)
def doubler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose adapter knows one photograph, `image`, as most do."""
    module = ModuleType("tests.parity.doubler")
    module.__spec__ = sys.modules[__name__].__spec__
    module.INPUTS, module.FIXED, module.INFORMATION = ("tensor",), {}, ()  # type: ignore[attr-defined]
    module.compute = lambda case, device: {  # type: ignore[attr-defined]
        "in/tensor": case.inputs["image"] + 1.0,
        "doubled": case.inputs["image"] * 2.0,
    }
    module.rule = lambda case, name: {"doubled": rules.relative(1e-5), "in/tensor": rules.exact()}.get(name)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def case_of(names: tuple[str, ...], pattern: str) -> Case:
    arrays: dict[str, Array] = {"in/image": np.ones((2, 3, 3), np.uint8), "out/doubled": np.full((2, 3, 3), 2.0)}
    for at, name in enumerate(names, start=2):
        arrays[f"in/{name}"] = np.full((at, 3, 3), at, np.uint8)
        arrays["out/" + pattern.format("doubled", name)] = np.full((at, 3, 3), 2.0 * at)
        arrays["in/" + pattern.format("tensor", name)] = np.full((at, 3, 3), at + 1.0)
    return Case(Path("doubler"), {"system": "doubler", "state_dict": {}}, arrays)


@pytest.mark.parametrize("names", [("image2",), ("image_1", "image_2"), ("image/1", "image/10", "image3")])
@pytest.mark.parametrize("pattern", ["{0}/{1}", "{1}/{0}"])
def test_each_photographs_outputs_are_compared_with_its_own(names: tuple[str, ...], pattern: str) -> None:
    lines, computed = run_case(case_of(names, pattern))
    expected = {"doubled", *(pattern.format("doubled", name) for name in names)}
    assert set(computed) == expected
    assert {line.name for line in lines if not line.name.startswith("in/")} == expected
    assert len(lines) == 2 * len(names) + 1
    assert all(line.passed for line in lines)


@pytest.mark.parametrize("wrong", ["doubled", "doubled/image2", "doubled/image3"])
def test_one_changed_output_of_one_photograph_fails_by_its_name(wrong: str) -> None:
    case = case_of(("image2", "image3"), "{0}/{1}")
    case.arrays[f"out/{wrong}"] = case.arrays[f"out/{wrong}"] * (1 + 2e-5)
    lines, _ = run_case(case)
    assert [line.name for line in lines if not line.passed] == [wrong]


def test_outputs_of_a_photograph_that_is_missing_fail_by_name() -> None:
    case = case_of(("image2",), "{0}/{1}")
    del case.arrays["in/image2"]
    lines, _ = run_case(case)
    assert [line.name for line in lines if not line.passed] == ["doubled/image2"]


@pytest.mark.parametrize(("names", "spec"), [(("photo",), {}), (("b", "a"), {"images": ["b", "a"]})])
def test_the_only_photograph_or_the_first_listed_is_the_cases_own_whatever_it_is_called(
    names: tuple[str, ...], spec: dict[str, list[str]]
) -> None:
    arrays: dict[str, Array] = {f"in/{name}": np.full((2, 4), at, np.uint8) for at, name in enumerate(names, start=1)}
    outputs = {name: np.full((2, 4, 3), 2.0 * at) for at, name in enumerate(names, start=1)}
    arrays |= {"out/doubled": outputs[names[0]]} | {f"out/doubled/{name}": outputs[name] for name in names[1:]}
    if len(names) == 1:  # what tells a photograph of no name is that it is in colour
        arrays["in/photo"] = arrays["in/photo"][..., None].repeat(3, axis=2)
    lines, _ = run_case(Case(Path("doubler"), {"system": "doubler", "state_dict": {}} | spec, arrays))
    assert [line.name for line in lines if line.passed] == ["doubled", *(f"doubled/{name}" for name in names[1:])]


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 1), (5, 2, 4), (5, 2, 4, 1), (1, 2, 4)])
def test_a_grey_photograph_is_seen_in_three_equal_channels_stacked_or_not(shape: tuple[int, ...]) -> None:
    grey = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    inputs = in_colour(Case(Path("x"), {}, {"in/train_image": grey, "in/tensor": grey, "out/image": grey})).inputs
    whole = grey if shape[-1] == 1 else grey[..., None]
    assert (inputs["train_image"] == whole.repeat(3, axis=-1)).all()
    assert inputs["tensor"].shape == shape
