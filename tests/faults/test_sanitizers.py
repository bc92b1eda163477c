"""The C of masks.py under AddressSanitizer and UBSan: no access outside its memory, whatever a code says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.mutation import THOROUGHLY

ROOT = Path(__file__).parents[2]
CODES = 10_000
FLAGS = ["-shared", "-fPIC", "-g", "-O1", "-std=c99", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def runtime(name: str) -> str:
    return subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def checked(folder: Path, source: str, seed: int) -> subprocess.CompletedProcess[str]:
    library = folder / "masks.so"
    (folder / "masks.c").write_text(source)
    subprocess.run(["gcc", *FLAGS, "-o", str(library), str(folder / "masks.c")], check=True)
    environment = os.environ | {
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONPATH": str(ROOT),
    }
    program = [sys.executable, str(Path(__file__).with_name("sanitized.py")), str(library), str(seed)]
    return subprocess.run(
        [*program, str(CODES * THOROUGHLY)], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc") or sys.platform != "linux", reason="needs gcc and its sanitizers")
def test_damaged_codes_stay_within_their_memory(tmp_path: Path) -> None:
    source = (ROOT / "common" / "ops" / "masks.c").read_text()
    ran = checked(tmp_path, source, seed=THOROUGHLY)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert f"{CODES * THOROUGHLY} codes damaged" in ran.stdout
    check = "if (row < height) mask"
    assert check in source
    careless = checked(tmp_path, source.replace(check, "mask"), seed=1)  # the sanitizers do see what they should
    assert "ERROR: AddressSanitizer: heap-buffer-overflow" in careless.stderr
