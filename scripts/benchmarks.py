"""Runs every program of scripts/bench, one after the other, and writes their tables to BENCHMARKS.md.

python scripts/benchmarks.py              all of them (make bench), but for what takes hours
python scripts/benchmarks.py rle masks    those whose name contains one of the words; prints, writes nothing
"""

import ast
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

BY_NAME = ("nuclei",)  # runs where a word asks for it
ROOT = Path(__file__).resolve().parent.parent
INTRODUCTION = """# Benchmarks

Written by `make bench`: every table is the output of the program above it, run alone, with its peers in the
same run. Another machine gives other times; the ratios are what to look at. PEER_PYTHON names a Python with
MMDetection, as `scripts/bench/peers.py` says how to make it; without one its rows are left out.
"""


def programs() -> list[Path]:
    """The benchmark programs; a file whose name starts with an underscore is help for the others."""
    found = (path for path in (ROOT / "scripts" / "bench").glob("*.py") if not path.name.startswith("_"))
    return sorted(found, key=lambda path: (path.stem != "peers", path))


def processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> str:
    """One line on what the figures were measured with."""
    system = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
    return f"{processor()}, {system}, {libraries}"


def section(program: Path, output: str) -> str:
    """One program's part of the page: what it measures (the first line of its docstring), its command, its output."""
    subject = program.stem.replace("_", " ").capitalize()
    docstring = ast.get_docstring(ast.parse(program.read_text(encoding="utf-8"))) or subject
    command = f"python {program.relative_to(ROOT).as_posix()}"
    table = output.strip("\n")  # blanks before its first line are part of it
    return f"## {subject}\n\n{docstring.splitlines()[0]}\n\n`{command}`\n\n```\n{table}\n```\n"


def run(program: Path) -> str:
    """What the program printed; its progress and warnings go to the terminal."""
    print(f"{program.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    command = [sys.executable, str(program)]
    wide = os.environ | {"COLUMNS": "120"}  # a table is printed as if on a terminal of that width
    finished = subprocess.run(command, cwd=ROOT, env=wide, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode != 0:
        print(finished.stdout, file=sys.stderr)
        sys.exit(f"{program.name} failed with status {finished.returncode}; BENCHMARKS.md is left as it was")
    return finished.stdout


def main(words: list[str]) -> None:
    usual = [program for program in programs() if program.stem not in BY_NAME]
    chosen = [program for program in programs() if any(word in program.stem for word in words)] if words else usual
    if not chosen:
        sys.exit(f"no benchmark matches {' '.join(words)}; there are: {' '.join(p.stem for p in programs())}")
    sections = [section(program, run(program)) for program in chosen]
    print("\n".join(sections))
    if not words:
        page = "\n".join([INTRODUCTION, f"Measured on: {machine()}.\n", *sections])
        (ROOT / "BENCHMARKS.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
