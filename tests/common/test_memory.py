"""Keeping freed memory: fewer page faults, which the kernel counts."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from common.run.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
[torch.ones(2**21) for _ in range(8)]
counts = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2**21) for _ in range(8)]  # 64 MB, all freed at once
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts))  # what a system short of memory takes away meanwhile is no round's own
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_freed_memory_is_used_again_without_asking_the_system():
    usual = faults("as it is")
    if usual < 200:
        pytest.skip("this C library keeps memory anyway")
    assert faults("keep") < 0.7 * usual
