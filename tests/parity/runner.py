"""Computes every output of a case through a system's adapter and compares it with what the original computed.

An adapter is the module tests/parity/<system>/:
    INPUTS                 inputs that our own preprocessing must reproduce, compared like outputs
    FIXED, INFORMATION     what it doesn't read of a spec: settings that have one value here, and what only tells
    compute(case, device)  -> {output's name: array}; whole arrays, also where the case holds a sample
    rule(case, name)       -> how that output is compared, or None where nobody thought of it
    on_scene(case, seed)   -> (spec, inputs): the case's network on drawn scenes instead (freeze.py), so many `images`
                           to learn from
"""

import importlib
import importlib.util
import math
import re
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from common.errors import UserError
from tests.parity.case import SAMPLE, Array, Case, sample
from tests.parity.images import in_colour, one_by_one
from tests.parity.recorded import recorded
from tests.parity.rules import Rule
from tests.parity.settings import Fixed, Noted, passed_over


class System(Protocol):
    """What tests/parity/<system>/ provides."""

    INPUTS: tuple[str, ...]
    FIXED: Fixed
    INFORMATION: tuple[str, ...]

    def compute(self, case: Case, device: str) -> dict[str, Array]: ...

    def rule(self, case: Case, name: str) -> Rule | None: ...

    def on_scene(self, case: Case, seed: int, images: int = ...) -> tuple[dict[str, Any], dict[str, Array]]: ...


@dataclass(frozen=True)
class Line:
    """The comparison of one output."""

    name: str
    rule: str
    error: float
    tolerance: float
    remark: str = ""

    @property
    def passed(self) -> bool:
        return not self.remark and self.error <= self.tolerance  # a NaN is not <= anything

    def __str__(self) -> str:
        verdict = "ok" if self.passed else f"FAIL {self.remark}".rstrip()
        return f"{self.name:<64} {self.rule:<18} {self.error:9.2e} <= {self.tolerance:7.1e}  {verdict}"


def find_system(name: str) -> System:
    """The adapter of the system that a spec names."""
    module: Any = None
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) and importlib.util.find_spec(f"tests.parity.{name}"):
        module = importlib.import_module(f"tests.parity.{name}")
    if not all(hasattr(module, part) for part in ("INPUTS", "FIXED", "INFORMATION", "compute", "rule")):
        raise UserError(f"no system {name!r}: tests/parity/{name}.py would have to say how to compare its cases")
    system: System = module
    return system


def expected_arrays(case: Case, system: System) -> dict[str, Array]:
    """What is compared: all outputs, and the inputs that our preprocessing makes itself (as "in/...")."""
    checked = {f"in/{key}": value for key, value in case.inputs.items() if key.removesuffix(SAMPLE) in system.INPUTS}
    return checked | case.outputs


def as_stored(case: Case, system: System, computed: Mapping[str, Array]) -> dict[str, Array]:
    """What was computed under the case's own names, sampled where the case holds a sample."""
    arrays = {}
    for name in expected_arrays(case, system):
        if name in computed:  # the adapter sampled it itself, perhaps, as a case may hold a norm and a sample of it
            arrays[name] = np.asarray(computed[name])
            continue
        whole = computed.get(name.removesuffix(SAMPLE))
        if whole is not None:
            arrays[name] = sample(whole, case.sample_limit) if name.endswith(SAMPLE) else np.asarray(whole)
    return arrays


def compare(case: Case, system: System, stored: Mapping[str, Array]) -> list[Line]:
    """A line for each output of the case; one that was not computed or has no rule fails."""
    return [
        compare_one(case, system, name, stored.get(name), expected)
        for name, expected in expected_arrays(case, system).items()
    ]


def compare_one(case: Case, system: System, name: str, computed: Array | None, expected: Array) -> Line:
    rule = system.rule(case, name.removesuffix(SAMPLE))
    if rule is None:
        return Line(name, "none", math.inf, 0.0, "no rule for this output")
    if computed is None:
        return Line(name, rule.name, math.inf, rule.tolerance, "not computed")
    if computed.shape != expected.shape:
        shapes = f"shape {list(computed.shape)}, expected {list(expected.shape)}"
        return Line(name, rule.name, math.inf, rule.tolerance, shapes)
    error, tolerance = rule.error(computed, expected), rule.tolerance
    if error > tolerance and rule.measured is not None:
        left_open = recorded(case, name)
        left_open = left_open if error <= left_open else rule.measured()
        return Line(name, f"{rule.name}, rounding", error, max(tolerance, left_open))
    return Line(name, rule.name, error, tolerance)


def run_case(case: Case, device: str = "cpu") -> tuple[list[Line], dict[str, Array]]:
    """The comparison of a case, and what was computed under the case's own output names."""
    system, spec = find_system(case.system), Noted(case.spec)
    lines: list[Line] = []
    computed: dict[str, Array] = {}
    for part, names in one_by_one(in_colour(replace(case, spec=spec))):
        if not expected_arrays(part, system):
            continue
        part_lines, stored = run_part(part, system, device)
        called = {name.removeprefix("out/"): whole.removeprefix("out/") for name, whole in names.items()}
        lines += [replace(line, name=called[line.name]) for line in part_lines]
        computed |= {called[name]: value for name, value in stored.items()}
    if all(not line.remark for line in lines):  # else something was left out, so not all was read either
        remark = passed_over(spec, system.FIXED, system.INFORMATION)
        lines = [replace(line, remark=remark) for line in lines]
    return lines, computed


def measure_rounding(case: Case) -> dict[str, float]:
    """What float32 leaves open of each output whose tolerance may be measured; by several photographs, the most."""
    system, measured = find_system(case.system), dict[str, float]()
    for part, _ in one_by_one(in_colour(case)):
        for name in expected_arrays(part, system):
            rule = system.rule(part, name.removesuffix(SAMPLE))
            if rule is not None and rule.measured is not None:
                measured[name] = max(measured.get(name, 0.0), rule.measured())
    return measured


def run_part(case: Case, system: System, device: str) -> tuple[list[Line], dict[str, Array]]:
    """The same for the photograph `image` alone."""
    remark = "not computed"
    try:
        stored = as_stored(case, system, system.compute(case, device))
    except Exception as error:  # the outputs still fail by name, and other cases are worth running
        if not isinstance(error, UserError):
            traceback.print_exc(file=sys.stdout)
        stored, remark = {}, f"not computed ({type(error).__name__}: {error})"
    lines = [
        replace(line, remark=remark) if line.remark == "not computed" else line
        for line in compare(case, system, stored)
    ]
    return lines, {name: value for name, value in stored.items() if not name.startswith("in/")}


@contextmanager
def other_rounding() -> Iterator[None]:
    """Other convolutions inside, which add up the same products in another order."""
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = True  # type: ignore[assignment]


def find_cases(folders: list[str]) -> list[Path]:
    """The case folders among `folders`; a folder that is no case stands for the cases right inside it."""
    found: list[Path] = []
    for folder in map(Path, folders):
        inside = sorted(path.parent for path in folder.glob("*/spec.json"))
        found += [folder] if (folder / "spec.json").exists() or not inside else inside
    return found
