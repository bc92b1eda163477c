"""The proof itself is tested: whatever is wrong with an output must show, and end in exit status 1."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from tests.parity import rules
from tests.parity.__main__ import main
from tests.parity.case import SAMPLE, Array, Case, fill, read_case, sample, write_case
from tests.parity.networks import rounding_of_gradients
from tests.parity.runner import as_stored, compare, find_cases, find_system, run_case
from tests.parity.settings import Fixed
from tests.running import python

OPERATORS = Path(__file__).parent / "cases" / "solov2" / "ops"
KEPT = ("points_nms/", "quarter/", "rle/", "dice/", "nms_7/")


NO_SETTINGS: Fixed = {}


class Doubler:
    """A system whose network doubles its input."""

    INPUTS = ("tensor",)
    FIXED = NO_SETTINGS
    INFORMATION = ()

    def compute(self, case: Case, device: str) -> dict[str, Array]:
        return {"in/tensor": case.inputs["image"] / 2, "doubled": 2 * case.inputs["image"]}

    def rule(self, case: Case, name: str) -> rules.Rule | None:
        return {"doubled": rules.relative(1e-5), "in/tensor": rules.exact(), "absent": rules.exact()}.get(name)


def doubler_case(**changed: Array) -> Case:
    image = np.linspace(-1, 1, 50_000, dtype=np.float32)
    arrays: dict[str, Array] = {"in/image": image, "in/tensor": image / 2, f"out/doubled{SAMPLE}": sample(2 * image)}
    spec = {"system": "doubler", "state_dict": {}, "settings": {}}
    return Case(Path("doubler"), spec, arrays | changed)


def failures(case: Case) -> list[str]:
    system = Doubler()
    lines = compare(case, system, as_stored(case, system, system.compute(case, "cpu")))  # type: ignore[arg-type]
    return [line.name for line in lines if not line.passed]


def test_equal_outputs_pass() -> None:
    assert failures(doubler_case()) == []


def test_an_output_off_by_more_than_its_tolerance_fails() -> None:
    doubled = sample(2 * np.linspace(-1, 1, 50_000, dtype=np.float32))
    assert failures(doubler_case(**{f"out/doubled{SAMPLE}": doubled * np.float32(1 + 2e-5)})) == [f"doubled{SAMPLE}"]
    assert failures(doubler_case(**{f"out/doubled{SAMPLE}": doubled * np.float32(1 + 5e-6)})) == []


def test_an_output_without_a_rule_fails() -> None:
    assert failures(doubler_case(**{"out/unheard_of": np.zeros(3)})) == ["unheard_of"]


def test_an_output_that_is_not_computed_fails() -> None:
    assert failures(doubler_case(**{"out/absent": np.zeros(0)})) == ["absent"]


def test_where_computing_fails_each_output_fails_by_name_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Doubler, case: Case, device: str) -> dict[str, Array]:
        raise KeyError("image2")

    monkeypatch.setattr(Doubler, "compute", broken)
    monkeypatch.setattr("tests.parity.runner.find_system", lambda name: Doubler())
    lines, computed = run_case(doubler_case())
    assert computed == {}
    assert {line.name: line.remark for line in lines} == dict.fromkeys(
        ("in/tensor", f"doubled{SAMPLE}"), "not computed (KeyError: 'image2')"
    )


def test_preprocessing_that_differs_fails() -> None:
    other = np.linspace(-1, 1, 50_000, dtype=np.float32) / 2
    other[7] += 1e-3
    assert failures(doubler_case(**{"in/tensor": other})) == ["in/tensor"]


def test_a_case_with_nothing_to_compare_does_not_pass(tmp_path: Path) -> None:
    case = read_case(OPERATORS)
    write_case(tmp_path / "empty", case.spec, {"in/points_nms/heat": case.inputs["points_nms/heat"]})
    assert main([str(tmp_path / "empty")]) == 1


ALL_RULES = [
    rules.relative(1e-4),
    rules.relative_nan_as_zero(1e-4),
    rules.absolute(1e-4),
    rules.elementwise(1e-4),
    rules.exact(),
]


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_rules_refuse_nan_infinity_other_values_and_other_shapes(rule: rules.Rule) -> None:
    expected = np.array([0.5, 2.0, -1.0, 0.0], np.float32)
    assert rule.error(expected.copy(), expected) <= rule.tolerance
    for wrong in (math.nan, math.inf, 0.501):
        computed = expected.copy()
        computed[0] = wrong
        assert not rule.error(computed, expected) <= rule.tolerance
    assert rule.error(expected[:3], expected) == math.inf
    assert rule.error(expected[None], expected) == math.inf


def test_a_nan_of_the_original_may_only_be_zero_or_nan() -> None:
    expected = np.array([0.5, math.nan], np.float32)
    rule = rules.relative_nan_as_zero(1e-5)
    assert rule.error(np.array([0.5, 0.0], np.float32), expected) == 0
    assert rule.error(np.array([0.5, math.nan], np.float32), expected) == 0
    assert rule.error(np.array([0.5, 0.1], np.float32), expected) > 0.1
    assert rule.error(np.array([math.nan, 0.0], np.float32), expected) == math.inf


def test_scores_undefined_in_the_original_must_be_undefined_here() -> None:
    expected = np.array([0.25, math.nan])
    assert rules.absolute(1e-9).error(expected.copy(), expected) == 0
    assert rules.absolute(1e-9).error(np.array([0.25, 0.0]), expected) == math.inf


def test_mask_pixels_count_against_what_the_masks_cover() -> None:
    mask = np.zeros((10, 16), bool)
    mask[:, :4] = True  # 40 pixels
    other = mask.copy()
    other[0, 0] = False
    assert rules.mask_bits(1e-3).error(np.packbits(other), np.packbits(mask)) == pytest.approx(1 / 40)
    undecided = np.zeros_like(mask)
    assert rules.mask_bits_except(undecided).error(np.packbits(other), np.packbits(mask)) == 1
    undecided[0, 0] = True
    assert rules.mask_bits_except(undecided).error(np.packbits(other), np.packbits(mask)) == 0


def test_a_measured_tolerance_is_asked_for_only_where_the_stated_one_fails() -> None:
    def never() -> float:
        raise AssertionError

    class Measured(Doubler):
        limit: Callable[[], float] = staticmethod(never)

        def rule(self, case: Case, name: str) -> rules.Rule | None:
            return rules.relative(1e-5, self.limit)

    def errors(case: Case, system: Measured) -> list[float]:
        lines = compare(case, system, as_stored(case, system, system.compute(case, "cpu")))  # type: ignore[arg-type]
        return [line.error - line.tolerance for line in lines if not line.passed]

    assert errors(doubler_case(), Measured()) == []
    other = doubler_case(**{f"out/doubled{SAMPLE}": doubler_case().outputs[f"doubled{SAMPLE}"] * np.float32(1.001)})
    Measured.limit = staticmethod(lambda: 1e-6)
    assert errors(other, Measured())  # a measured tolerance never tightens, nor does it excuse what is beyond it
    Measured.limit = staticmethod(lambda: 2e-3)
    assert errors(other, Measured()) == []


def test_what_was_recorded_of_float32s_rounding_is_not_measured_again() -> None:
    def gradients_in(_: Case, dtype: torch.dtype) -> dict[str, Array]:
        return {"head.weight": np.full(4, 1 + 1e-3 * (dtype == torch.float32))}

    def rounding(spec: dict[str, Any], gradients_in: Any) -> float:
        case = Case(Path(f"case {len(spec)}"), spec, {})
        return rounding_of_gradients(case, "grad/head.bias", gradients_in, lambda name: name.split("/")[-1][:4])

    assert rounding({}, gradients_in) == pytest.approx(2e-3)  # twice the distance from float64's
    assert rounding({"gradient_spread": {"head": 2e-4}}, None) == 4e-4
    assert rounding({"gradient_spread": {"neck": 1.0}}, None) == 0
    assert rounding({"gradient_spread": {"head": 1.0}}, None) == 5e-3  # no case excuses more


@pytest.mark.parametrize(
    ("text", "tolerance"),
    [
        (1e-4, 1e-4),
        ("1e-9 absolute", 1e-9),
        ("at most 1e-3 of the mask pixels may differ", 1e-3),
        ("float32: 1e-5 relative to the exact form for |x|<=80", 1e-5),
        ("soft 1e-5, bits exact", 1e-5),
        (0.5, 1e-3),
        (None, 1e-3),
    ],
)
def test_a_spec_states_its_tolerance_as_a_number_or_in_words(text: object, tolerance: float) -> None:
    assert rules.stated(text, 1e-3) == tolerance


def test_parameters_are_filled_as_the_cases_were_made() -> None:
    """Digests of what the original's own filling gives."""
    assert fill("a.num_batches_tracked", ()) == 0
    weight = fill("backbone.conv1.weight", (64, 3, 7, 7))
    assert weight.dtype == np.float32
    assert weight.std() == pytest.approx(1 / math.sqrt(3 * 7 * 7), rel=0.05)
    assert {
        name: [round(float(x), 6) for x in fill(name, shape).reshape(-1)[:3]] for name, shape in SHAPES.items()
    } == FILLED
    shifted = fill("head.bias", (4,), {"head.*": {"scale": 2.0, "shift": -1.0}})
    np.testing.assert_allclose(shifted, 2 * fill("head.bias", (4,)) - 1, rtol=1e-6)


SHAPES = {
    "backbone.conv1.weight": (64, 3, 7, 7),
    "backbone.bn1.weight": (64,),
    "backbone.bn1.bias": (64,),
    "backbone.bn1.running_mean": (64,),
    "backbone.bn1.running_var": (64,),
}
FILLED = {
    "backbone.conv1.weight": [0.025237, -0.080514, -0.050065],
    "backbone.bn1.weight": [1.081886, 1.102307, 1.149795],
    "backbone.bn1.bias": [0.113572, 0.011572, -0.050018],
    "backbone.bn1.running_mean": [-0.143004, -0.070891, 0.112283],
    "backbone.bn1.running_var": [1.324846, 1.201539, 1.227791],
}


def cut(folder: Path, change: Callable[[dict[str, Array]], None] = lambda arrays: None) -> Path:
    """The quick part of the operators' case, with something changed."""
    case = read_case(OPERATORS)
    arrays = {name: value for name, value in case.arrays.items() if name.split("/", 1)[1].startswith(KEPT)}
    change(arrays)
    write_case(folder, case.spec, arrays)
    return folder


def perturb(arrays: dict[str, Array]) -> None:
    arrays["out/dice/loss"] = arrays["out/dice/loss"] * np.float32(1.0001)


def blur(arrays: dict[str, Array]) -> None:
    arrays["out/quarter/out"][0, 0, 0] ^= 1


def spoil(arrays: dict[str, Array]) -> None:
    arrays["out/dice/grad"][0, 0, 0] = math.nan


def invent(arrays: dict[str, Array]) -> None:
    arrays["out/surface_loss"] = np.zeros(3)


def shorten(arrays: dict[str, Array]) -> None:
    arrays["out/nms_7/gaussian_2.0"] = arrays["out/nms_7/gaussian_2.0"][:-1]


def test_exit_status_0_when_everything_agrees_and_the_dump_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = read_case(cut(tmp_path / "case"))
    assert main([str(case.folder), "--dump", str(tmp_path / "dump")]) == 0
    printed = capsys.readouterr().out
    with np.load(tmp_path / "dump" / "case.npz") as dumped:
        assert set(dumped.files) == set(case.outputs)
        np.testing.assert_allclose(dumped["dice/loss"], case.outputs["dice/loss"], rtol=1e-5)
    assert all(any(line.startswith(name) for line in printed.splitlines()) for name in case.outputs)


@pytest.mark.parametrize("change", [perturb, blur, spoil, invent, shorten], ids=lambda change: change.__name__)
def test_exit_status_1_when_one_output_is_off(tmp_path: Path, change: Callable[[dict[str, Array]], None]) -> None:
    folder = cut(tmp_path / "case", change)
    lines, _ = run_case(read_case(folder))
    assert sum(not line.passed for line in lines) == 1
    assert main([str(folder)]) == 1


def test_exit_status_1_of_the_program_itself(tmp_path: Path) -> None:
    folder = cut(tmp_path / "case", perturb)
    done = python("-m", "tests.parity", folder, cwd=tmp_path, status=1)
    assert [line for line in done.stdout.splitlines() if line.startswith("dice/loss") and line.endswith("FAIL")]


def test_one_bad_case_among_good_ones_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(tmp_path / "cases" / "good")
    cut(tmp_path / "cases" / "bad", perturb)
    assert main([str(tmp_path / "cases")]) == 1
    assert "1 of 2 cases pass; failed: bad" in capsys.readouterr().out


def test_cases_that_cannot_be_read_end_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    folder = cut(tmp_path / "case")
    (folder / "golden.npz").write_bytes(b"PK no")
    assert main([str(folder)]) == 2
    assert "golden.npz" in capsys.readouterr().err


def test_two_cases_of_one_name_are_not_dumped_over_each_other(tmp_path: Path) -> None:
    folders = [str(cut(tmp_path / place / "case")) for place in ("here", "there")]
    assert main([*folders, "--dump", str(tmp_path / "dump")]) == 2


def test_an_unknown_system_is_named() -> None:
    for name in ("u2netter", "case", "../solov2", "__main__"):
        with pytest.raises(UserError, match="no system"):
            find_system(name)


def test_an_unknown_system_is_exit_status_1(tmp_path: Path) -> None:
    folder = cut(tmp_path / "case")
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(spec | {"system": "u2netter"}))
    assert main([str(folder)]) == 1


def test_a_folder_stands_for_the_cases_in_it(tmp_path: Path) -> None:
    cut(tmp_path / "b")
    cut(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    assert [folder.name for folder in find_cases([str(tmp_path)])] == ["a", "b"]
    shutil.rmtree(tmp_path / "b")
    assert find_cases([str(tmp_path / "a")]) == [tmp_path / "a"]
