"""What a reader has to read, and what stands on what: budgets and floors, each shown to catch a tree that breaks it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_house import ROOT, files, imports, packages, write

# --- budgets: what a reader has to read

BUDGETS = re.compile(r"^\| `?([\w/]+|longest [\w ]+|most [\w ]+)`? \| ([\d,]+) \|", re.MULTILINE)
LIMITS = ("longest file", "longest function", "most files in a folder")
SOURCES = (".py", ".c", ".cu")
PACKAGE = 2800  # of a package that the table doesn't name


def budgets(root: Path) -> dict[str, int]:
    """Room or limit -> lines or files at most, as the table in CONTRIBUTING.md says."""
    found = BUDGETS.findall((root / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    unnamed = dict.fromkeys(set(packages(root)) - {"maskworks"}, PACKAGE)
    return unnamed | {name: int(number.replace(",", "")) for name, number in found}


def over_budget(root: Path) -> list[str]:
    """Rooms with more lines than their budget, and files, functions and folders that are too long."""
    allowed = budgets(root)
    rooms = [name for name in allowed if name not in LIMITS]
    faults = [f"{room} has {lines} lines" for room in rooms if (lines := line_count(root / room)) > allowed[room]]
    sources = [path for room in rooms for path in files(root / room, ".py")]
    for path in sources:
        name = path.relative_to(root).as_posix()
        if (lines := len(path.read_bytes().splitlines())) > allowed["longest file"]:
            faults.append(f"{name} has {lines} lines")
        faults += [
            f"{name}: {f} has {lines} lines" for f, lines in functions(path) if lines > allowed["longest function"]
        ]
    for folder in sorted({path.parent for path in sources}):
        if (count := len(list(folder.glob("*.py")))) > allowed["most files in a folder"]:
            faults.append(f"{folder.relative_to(root).as_posix()} has {count} files")
    return faults


def line_count(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in files(folder, *SOURCES))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("package", sorted({*packages(ROOT)} - {"common", "maskworks"}))
def test_a_readme_says_how_much_there_is_to_read(package: str) -> None:
    """In the package's own folder, at the 40 lines a minute that all of them reckon with."""
    page = (ROOT / package / "README.md").read_text(encoding="utf-8")
    lines, minutes = re.findall(r"about ([\d,]+) lines, (\d+) minutes", page)[0]
    there = sum(len(path.read_bytes().splitlines()) for path in (ROOT / package).glob("*.py"))
    assert abs(int(lines.replace(",", "")) - there) <= 60
    assert abs(int(minutes) - there / 40) <= 5


def test_no_room_is_larger_than_its_budget() -> None:
    assert {"common", "tests", "scripts", *LIMITS} <= set(budgets(ROOT))
    assert over_budget(ROOT) == []


def test_what_is_over_its_budget_is_named(tmp_path: Path) -> None:
    table = "| `common` | 1,000 |\n| longest file | 6 |\n| longest function | 3 |\n| most files in a folder | 2 |\n"
    write(tmp_path / "CONTRIBUTING.md", table)
    write(tmp_path / "common/a.py", "def f() -> None:\n    a = 1\n    b = 2\n")
    assert over_budget(tmp_path) == []
    write(tmp_path / "common/a.py", "def f() -> None:\n    a = 1\n    b = 2\n    c = 3\n")
    assert over_budget(tmp_path) == ["common/a.py: f has 4 lines"]
    write(tmp_path / "common/a.py", "a = 1\n" * 7)
    assert over_budget(tmp_path) == ["common/a.py has 7 lines"]
    write(tmp_path / "common/a.py", "")
    write(tmp_path / "common/b.py", "")
    write(tmp_path / "common/c.cu", "\n" * 1001)
    assert over_budget(tmp_path) == ["common has 1001 lines"]
    write(tmp_path / "common/c.py", "")
    write(tmp_path / "common/c.cu", "")
    assert over_budget(tmp_path) == ["common has 3 files"]


# --- floors: what stands on what

FLOORS = {  # room -> what it may import beside itself; the models may import all of common and maskworks
    "common.errors": (),
    "common.files": (),
    "common.ops": ("common.errors", "common.files"),
    "common.data": ("common.ops", "common.errors", "common.files"),
    "common.metrics": ("common.ops", "common.errors", "common.files"),
    "common.drawing": (),
    "common.results": ("common.data", "common.ops", "common.drawing", "common.errors", "common.files"),
    "common.run": (
        *("common.data", "common.ops", "common.metrics", "common.results", "common.drawing"),
        *("common.errors", "common.files"),
    ),
    "maskworks.memory": (),
    "maskworks.command_line": ("common", "maskworks.memory"),
    "maskworks.picture_kinds": ("common",),
    "maskworks.prediction": ("common", "maskworks.picture_kinds", "maskworks.report"),
    "maskworks.commands": (
        "common",
        *(f"maskworks.{name}" for name in ("command_line", "picture_kinds", "report", "shards", "training")),
    ),
    "maskworks.training": ("common", "maskworks.command_line", "maskworks.memory"),
    "maskworks.own_data": (
        "common",
        *(f"maskworks.{name}" for name in ("command_line", "prediction", "commands", "report")),
    ),
    "maskworks.many": (
        "common",
        *(f"maskworks.{name}" for name in ("command_line", "prediction", "commands", "published", "shards")),
        *(f"maskworks.{name}" for name in ("__main__", "__version__", "load")),
    ),
    "maskworks.published": ("common", "maskworks.command_line", "maskworks.packages", "maskworks.memory"),
    "maskworks.shapes": ("common", "maskworks.command_line", "maskworks.shards"),
    "maskworks.shards": ("common", "maskworks.command_line"),
    "maskworks.report": ("common", "maskworks.command_line"),
}


def room_of(module: str) -> str:
    """common.run.training -> common.run; solov2.network -> solov2"""
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if first in {"common", "maskworks"} and rest else first


def floor_faults(root: Path) -> list[str]:
    """Imports in common and maskworks of what stands above them."""
    faults = []
    for path in [*files(root / "common", ".py"), *files(root / "maskworks", ".py")]:
        room = room_of(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
        for name in imports(path):
            other = room_of(name)
            if room not in FLOORS or other == room or other.partition(".")[0] not in {"common", "maskworks"}:
                continue
            if not {other, other.partition(".")[0]} & {*FLOORS[room]}:
                faults.append(f"{path.relative_to(root).as_posix()} imports {name}")
    return faults


def test_every_room_imports_only_what_it_stands_on() -> None:
    assert floor_faults(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("common/ops/masks.py", "from common.run.training import Trainer"),
        ("common/data/coco.py", "from common import run"),
        ("common/metrics/coco.py", "import common.data.images"),
        ("common/results.py", "from common.metrics import evaluate_coco"),
        ("common/run/evaluation.py", "from maskworks.report import page"),
        ("maskworks/shapes/scenes.py", "from maskworks import report"),
    ],
)
def test_an_import_of_what_stands_above_is_found(tmp_path: Path, file: str, line: str) -> None:
    write(tmp_path / "common/run/training.py", "from common.data import coco\nfrom common.errors import UserError")
    write(tmp_path / "maskworks/report/page.py", "from common.results import Instances")
    assert floor_faults(tmp_path) == []
    write(tmp_path / file, line)
    assert [fault.partition(" ")[0] for fault in floor_faults(tmp_path)] == [file]
