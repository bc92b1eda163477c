"""The programs that write the README's tables: what they count, and that nothing else of the page changes."""

import math
from pathlib import Path

import pytest
import torch

from common.errors import UserError
from scripts import costs, fidelity
from scripts.checkpoint_table import PAGE as CHECKPOINTS
from scripts.costs import Costs, measure
from scripts.fidelity import Summary, deviation, summarize
from scripts.readme_table import README, read_results, write_between
from tests.parity.case import read_case
from tests.parity.runner import Line
from tests.running import call

CASES = Path(__file__).resolve().parents[1] / "parity" / "cases"
PLACES = [
    (README, "fidelity"),
    (README, "costs"),
    (CHECKPOINTS, "checkpoints"),
    (README.parent / "docs/export_table.md", "exports"),
]
PAGE = "before\n<!-- fidelity: by hand -->\nold\nrows\n<!-- end of fidelity -->\nafter\n"


PROGRAMS = [path for path in (README.parent / "scripts").glob("*.py") if "\nfrom scripts." in path.read_text("utf-8")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_that_uses_another_finds_it_wherever_it_is_started(program: Path) -> None:
    before, _, _ = program.read_text("utf-8").partition("\nfrom scripts.")
    assert "\nsys.path.insert(0, str(Path(__file__).resolve().parent.parent))" in before


def test_only_what_is_between_the_comments_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    for _ in range(2):
        write_between(page, "fidelity", "| new |")
        assert page.read_text() == PAGE.replace("old\nrows", "| new |")
    with pytest.raises(UserError, match="no comments <!-- costs"):
        write_between(page, "costs", "")


@pytest.mark.parametrize(("page", "name"), PLACES)
def test_a_page_has_a_place_for_the_table(page: Path, name: str, tmp_path: Path) -> None:
    copy = tmp_path / "README.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    write_between(copy, name, "| new |")
    assert "| new |" in copy.read_text(encoding="utf-8")


def test_deviations_are_in_units_of_the_tolerance() -> None:
    assert deviation(Line("a", "relative", 2e-5, 1e-4)) == pytest.approx(0.2)
    assert deviation(Line("a", "exact", 0.0, 0.0)) == 0
    assert deviation(Line("a", "exact", 1.0, 0.0)) == math.inf
    assert deviation(Line("a", "relative", math.nan, 1e-4)) == math.inf
    assert deviation(Line("a", "relative", 0.0, 1e-4, "not computed")) == math.inf


def test_a_case_is_summed_up() -> None:
    case = read_case(CASES / "psg" / "metrics")
    summary = summarize(case, "cpu")
    assert summary.system == "psg"
    assert summary.failed == []
    assert summary.outputs == len(case.outputs)
    assert summary.values == sum(array.size for array in case.outputs.values())
    assert 0 <= summary.largest <= 1


def run_fidelity(tmp_path: Path, *cases: Path) -> str:
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    call(fidelity.__name__, *cases, "--results", tmp_path / "results.json", "--readme", page)
    return page.read_text()


def test_cases_may_be_run_in_parts_and_our_own_are_left_out(tmp_path: Path) -> None:
    text = run_fidelity(tmp_path, CASES / "psg" / "metrics", CASES / "solov2" / "r50_3x_shapes")
    assert "panoptic scene graphs | 1 |" in text
    assert "SOLOv2" not in text
    text = run_fidelity(tmp_path, CASES / "psg" / "submission")
    assert "panoptic scene graphs | 2 |" in text
    assert set(read_results(tmp_path / "results.json")) == {"psg/metrics", "psg/submission"}


def test_a_case_that_fails_is_said_in_the_table_and_by_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = Summary("solov2", 2, 10, ["masks"], math.inf, "masks", 1)
    monkeypatch.setattr(fidelity, "summarize", lambda case, device: bad)
    with pytest.raises(SystemExit) as stop:
        run_fidelity(tmp_path, CASES / "solov2" / "ops")
    assert stop.value.code == 1
    text = (tmp_path / "README.md").read_text()
    assert "SOLOv2 | 1, **1 fail** | 2 | 10 | inf (ops: masks)" in text
    assert "1 are gradients that float32 itself leaves more open" in text


def test_parameters_are_counted_and_a_photograph_is_timed() -> None:
    parameters, seconds = measure("pose2seg", "shapes", torch.device("cpu"), Costs(runs=1))
    import pose2seg

    model = pose2seg.Pose2Seg(pose2seg.VARIANTS["shapes"], ("person",))
    assert parameters == sum(weight.numel() for weight in model.parameters())
    assert seconds > 0


def test_every_device_that_was_measured_has_a_column() -> None:
    recorded = {
        "glip glip_tiny": {"parameters": 2_000_000, "seconds": {"one CPU thread": 12.0}},
        "solov2 r50_3x": {"parameters": 1_500_000, "seconds": {"one CPU thread": 3.25, "H100": 0.0213}},
    }
    assert costs.table(recorded).splitlines() == [
        "| variant | parameters | one CPU thread | H100 | the original on a GPU, as published |",
        "| --- | --- | --- | --- | --- |",
        "| [solov2](solov2/README.md) `r50_3x` | 1.5 M | 3.25 s | 0.0213 s | 0.054 s, V100 |",
        "| [glip](glip/README.md) `glip_tiny` | 2.0 M | 12 s |  |  |",
    ]


def test_the_variants_that_are_measured_exist() -> None:
    from importlib import import_module

    for package, variants in costs.MEASURED.items():
        assert set(variants) <= set(import_module(package).VARIANTS)
    measured = {f"{package} {variant}" for package, variants in costs.MEASURED.items() for variant in variants}
    assert set(costs.PUBLISHED_ON_GPU) <= measured
