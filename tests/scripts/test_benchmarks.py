"""Every benchmark starts as BENCHMARKS.md says; whether it is fast, only the machine at hand tells."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks import ROOT, programs, section
from scripts.mmdet2pytorch import NETWORKS


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installation has: the packages, but not scripts."""
    folder = tmp_path_factory.mktemp("installed")
    for package in ("common", *NETWORKS):
        (folder / package).symlink_to(ROOT / package)
    return folder


@pytest.mark.parametrize("program", programs(), ids=lambda program: program.stem)
def test_a_benchmark_starts_and_needs_no_arguments(program: Path, installed: Path) -> None:
    line = [sys.executable, str(program), "--help"]
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        line, cwd=installed, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "positional arguments" not in done.stdout


def test_a_section_names_its_command() -> None:
    text = section(ROOT / "scripts" / "bench" / "rle.py", "  a table\n\n")
    assert text.startswith("## Rle\n\n")
    assert "`python scripts/bench/rle.py`" in text
    assert text.endswith("```\n  a table\n```\n")
