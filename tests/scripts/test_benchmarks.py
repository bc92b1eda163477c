"""Every benchmark starts as BENCHMARKS.md says; whether it is fast, only the machine at hand tells."""

from pathlib import Path

import pytest

from maskworks.packages import NETWORKS
from scripts.benchmarks import ROOT, programs, section
from tests.running import python


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installation has: the packages, but not scripts."""
    folder = tmp_path_factory.mktemp("installed")
    for package in ("common", "maskworks", *NETWORKS):
        (folder / package).symlink_to(ROOT / package)
    return folder


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.stem)
def test_a_benchmark_starts_and_needs_no_arguments(program: Path, installed: Path) -> None:
    done = python(program, "--help", cwd=installed, path=installed)
    assert "positional arguments" not in done.stdout


def test_a_section_names_its_command() -> None:
    text = section(ROOT / "scripts" / "bench" / "rle.py", "  a table\n\n")
    assert text.startswith("## Rle\n\n")
    assert "`python scripts/bench/rle.py`" in text
    assert text.endswith("```\n  a table\n```\n")
