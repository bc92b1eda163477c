"""How far every network is from its original: python scripts/fidelity.py CASE... writes the README's table of it.

Each case is recorded as soon as it is done, and the table is made of all that are recorded: they may be run in parts.
Exit status: 0 every output is within its tolerance, 1 one is not, 2 a case cannot be read.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests are not installed

from common.files import write_text
from maskworks.command_line import program
from scripts.readme_table import README, markdown, read_results, write_between
from tests.parity.case import Case, read_case
from tests.parity.runner import Line, expected_arrays, find_cases, find_system, run_case

OWN = "_shapes"  # the end of the names of cases that record our own outputs: these prove nothing here
TITLES = {
    "solov2": "SOLOv2",
    "yolact": "YOLACT, YOLACT++",
    "maskrcnn": "Mask R-CNN",
    "refinemask": "RefineMask, CBNetV2, U-2-Net",
    "psg": "panoptic scene graphs",
    "upsnet": "UPSNet",
    "glip": "GLIP",
    "pose2seg": "Pose2Seg",
}


@dataclass
class Fidelity:
    """Run parity cases and write the README's table of them."""

    cases: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Folders of cases, or folders with some; none: only the table is written, of what is recorded."""
    results: Path = Path("runs/fidelity.json")
    """Where each case is recorded; remove the file to start anew."""
    readme: Path = README
    """The page that gets the table."""
    device: str = "cpu"
    """Where the networks run."""


@dataclass
class Summary:
    """What is kept of a case."""

    system: str
    outputs: int
    values: int  # numbers that were compared
    failed: list[str]
    largest: float  # deviation, in units of the tolerance; the exact rules' tolerance is 0, and so is this then
    output: str  # whose deviation that is
    measured: int  # gradients held to the rounding of float32 as it was measured, not to the stated tolerance


def main() -> None:
    options = tyro.cli(Fidelity, prog="fidelity.py", description=__doc__)
    recorded = read_results(options.results)
    for folder in find_cases(list(options.cases)):
        case = read_case(folder)
        if case.name.endswith(OWN):
            print(f"{case.system}/{case.name}: left out, since it records our own outputs")
            continue
        summary = summarize(case, options.device)
        recorded[f"{case.system}/{case.name}"] = asdict(summary)
        write_text(options.results, json.dumps(recorded, indent=1) + "\n")
        print(f"{case.system}/{case.name}: {verdict(summary)}")
    summaries = {name: Summary(**entry) for name, entry in recorded.items()}
    write_between(options.readme, "fidelity", table(summaries))
    print(f"{options.readme}: {len(summaries)} cases")
    if any(summary.failed for summary in summaries.values()):
        sys.exit(1)


def summarize(case: Case, device: str) -> Summary:
    lines, _ = run_case(case, device)
    worst = max(lines, key=deviation)
    return Summary(
        case.system,
        len(lines),
        sum(int(array.size) for array in expected_arrays(case, find_system(case.system)).values()),
        [line.name for line in lines if not line.passed],
        deviation(worst),
        worst.name,
        sum("rounding" in line.rule for line in lines),
    )


def deviation(line: Line) -> float:
    """The error in units of the tolerance."""
    if line.remark or math.isnan(line.error):
        return math.inf
    if not line.error:
        return 0.0
    return line.error / line.tolerance if line.tolerance else math.inf


def verdict(summary: Summary) -> str:
    if summary.failed:
        return f"FAIL: {', '.join(summary.failed)}"
    return f"{summary.outputs} outputs, {summary.values:,} values, at most {summary.largest:.2g} ({summary.output})"


def table(summaries: dict[str, Summary]) -> str:
    """A row for each system, and how to read it."""
    rows: list[list[Any]] = []
    for system in [*TITLES, *sorted({one.system for one in summaries.values()} - set(TITLES))]:
        own = {name.partition("/")[2]: one for name, one in summaries.items() if one.system == system}
        if own:
            worst = max(own, key=lambda name: own[name].largest)
            failed = sum(bool(one.failed) for one in own.values())
            cases = f"{len(own)}" + (f", **{failed} fail**" if failed else "")
            largest = f"{own[worst].largest:.2g} ({worst}: {own[worst].output})" if own[worst].largest else "none"
            count = sum(one.outputs for one in own.values())
            values = f"{sum(one.values for one in own.values()):,}"
            rows.append([TITLES.get(system, system), cases, count, values, largest])
    head = ["system", "cases", "outputs", "values compared", "largest deviation, in tolerances"]
    measured = sum(one.measured for one in summaries.values())
    note = (
        f"\n\nOf the outputs {measured} are gradients that float32 itself leaves more open than their tolerance: "
        "these are held to what was measured ([how](tests/parity/README.md#gradients-and-float32))."
    )
    return markdown(head, rows) + (note if measured else "")


if __name__ == "__main__":
    program.run(main)
