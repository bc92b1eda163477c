"""--not-passed: what CI's second pass runs is everything that did not pass in the first, and nothing else."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import os
import pytest

def test_always():
    pass

def test_with_material():
    if "MATERIAL" not in os.environ:
        pytest.skip("not here")

@pytest.mark.parametrize("case", ["given"] if "MATERIAL" in os.environ else [])
def test_given(case):
    pass
"""


@pytest.mark.parametrize("processes", [[], ["-n", "2"]], ids=["one process", "two"])
def test_the_second_pass_runs_what_the_first_did_not_pass(processes: list[str], tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_it.py").write_text(TESTS)
    line = [sys.executable, "-m", "pytest", "-v", "--rootdir", ".", *processes]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    for flags, material, expected in (
        ([], {}, {"test_always"}),
        (["--not-passed"], {"MATERIAL": "1"}, {"test_with_material", "test_given[given]"}),
    ):
        done = subprocess.run(
            [*line, *flags], cwd=tmp_path, env=clean | material, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        passed = {
            word.partition("::")[2]
            for text in done.stdout.splitlines()
            if "PASSED" in text
            for word in text.split()
            if "::" in word
        }
        assert passed == expected, done.stdout
