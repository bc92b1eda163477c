"""Keeping freed memory: fewer page faults, which the kernel counts."""

import subprocess
import sys
from pathlib import Path

import pytest

import solov2
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.published import names

PROGRAM = """
import resource, torch
from maskworks.command_line import program
def main():
    [torch.ones(2**21) for _ in range(8)]
    counts = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [torch.ones(2**21) for _ in range(8)]  # 64 MB, all freed at once
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(min(counts))  # what a system short of memory takes away meanwhile is no round's own
main()
program.run(main)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_a_command_uses_freed_memory_again_without_asking_the_system():
    """In a new process: a copy of the warm one has memory enough that was freed before, and nothing to show."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    usual, as_a_command = map(int, done.stdout.split())
    if usual < 200:
        pytest.skip("this C library keeps memory anyway")
    assert as_a_command < 0.7 * usual


def test_a_model_loaded_to_predict_on_a_processor_keeps_freed_memory_as_the_commands_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = solov2.SOLOv2(solov2.VARIANTS["shapes"], ["a"])
    save(tmp_path / "a.safetensors", Checkpoint("solov2", to_dict(model.config), ("a",), (1,), model.state_dict()))
    kept = []
    monkeypatch.setattr(names, "keep_freed_memory", lambda: kept.append(True))
    solov2.load(tmp_path / "a.safetensors", device="cpu")
    assert kept
