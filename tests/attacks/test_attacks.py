"""Every attack ends as it may: all in the slow tests, a fixed tenth always, a random tenth where a seed is given."""

import os
import random
import sys
from pathlib import Path

import pytest

from tests.attacks import attack, good
from tests.attacks.attack import Attack, faults
from tests.attacks.table import attacks

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, pipes and limits are Linux's")
ROWS = attacks()
TOGETHER = 60  # attacks that share a process


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    good.make(folder)
    return folder


def carry_out(rows: list[Attack], folder: Path, files: Path, together: int = TOGETHER) -> None:
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    starts = range(0, len(rows), together)
    found = [line for at in starts for line in faults(rows[at : at + together], folder / "attacks", files)]
    assert found == []
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == before


def test_there_are_enough_attacks_and_each_has_a_name() -> None:
    assert len(ROWS) == len({row.name for row in ROWS}) >= 1500


def test_a_fixed_tenth(tmp_path: Path, files: Path) -> None:
    carry_out(ROWS[::10], tmp_path, files, together=300)


@pytest.mark.skipif("MASKWORKS_ATTACKS" not in os.environ, reason="MASKWORKS_ATTACKS gives no seed")
def test_a_random_tenth(tmp_path: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = os.environ["MASKWORKS_ATTACKS"] or str(random.randrange(10**9))
    with capsys.disabled():
        print(f"\nattacks of MASKWORKS_ATTACKS={seed}")
    carry_out(random.Random(seed).sample(ROWS, len(ROWS) // 10), tmp_path, files)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_all(tmp_path: Path, files: Path, part: int) -> None:
    carry_out(ROWS[part::20], tmp_path, files)


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        ("import os; os.kill(os.getpid(), 11)", "signal 11"),
        ("while True: pass", "signal 14"),
        ("x = bytes(3 << 30)", "traceback"),
        ("raise KeyError", "traceback"),
        ("import sys; sys.exit(2)", "0 lines of error"),
        ("import sys; sys.exit(70)", "exit status 70"),
        ("import sys; sys.exit('error: a\\nb is broken'); ", "exit status 1"),
        (
            "import sys; print('error: a file that is\\nbroken in two', file=sys.stderr); sys.exit(2)",
            "more than a line",
        ),
        ("open('good', 'a').write('x')", "good was changed"),
        ("pass", "left is missing"),
    ],
)
def test_what_must_not_happen_is_found(
    tmp_path: Path, program: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attack, "SECONDS", 1)

    def make(folder: Path, _: Path) -> None:
        (folder / "good").write_text("good")
        (folder / "program.py").write_text(program)

    first, second = (Attack(name, ("program",), make, leaves="left") for name in ("first", "second"))
    found = faults([first, second], tmp_path / "attacks", tmp_path)
    assert {each.partition(":")[0] for each in found} == {"first", "second"}  # the second also where the first kills
    assert all(any(fault in each for each in found if each.startswith(name)) for name in ("first", "second"))
