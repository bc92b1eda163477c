"""What every command writes, as hashes: `python -m tests.golden --write` before a change, without `--write` after it.

For each package a small model is trained for three steps, resumed for a fourth, evaluated, asked and, where a parity
case of its system is at hand, converted. The record is this machine's: other processors round otherwise.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import torch

from common.run.checkpoint import read_tensors
from tests.parity.case import read_case
from tests.running import ROOT, run
from tests.small import SMALL, flags

RECORD = ROOT / "runs" / "golden.json"
TIMES = ("images_per_second", "seconds", "memory")  # what a log's line says of the machine and not of the run
HASHED = (".safetensors", ".json", ".jsonl", ".png", ".jpg", ".yaml")
MACHINE = "--device cpu --workers 0 --batch-size 2 --no-report --save-every 1"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(SMALL)}; none: all")
    parser.add_argument("--write", action="store_true", help="make the record anew")
    options = parser.parse_args()
    found = {name: hashes(name) for name in options.names or SMALL}
    before = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if options.write:
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(before | found, indent=1) + "\n")
        print(f"written: {RECORD}")
        return
    if not before:
        sys.exit(f"{RECORD}: no record; make one with --write, of the code as it was before the change")
    different = list(differences({name: before.get(name, {}) for name in found}, found))
    print("\n".join(different) or f"{sum(map(len, found.values()))} files of {len(found)} models, all as recorded")
    sys.exit(bool(different))


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> Iterator[str]:
    for name, files in after.items():
        for file in sorted(files | before[name]):
            if files.get(file) != before[name].get(file):
                told = "new" if file not in before[name] else "gone" if file not in files else "differs"
                yield f"{name}: {file} {told}"


def hashes(name: str) -> dict[str, str]:
    """File -> hash, of what a package's commands write."""
    folder = SMALL[name][0]
    with tempfile.TemporaryDirectory() as work, chdir(work):
        small = flags(name, Path("data"))
        data = small[small.index("--data.train.images") :]
        train = [*small[: -len(data)], *shlex.split(MACHINE)]
        call(folder, "train", *train, *data, "--run", "run", "--steps", "3")
        call(folder, "train", *train, *data, "--run", "run", "--steps", "4", "--resume")
        weights = ["--weights", "run/last.safetensors", "--device", "cpu"]
        call(folder, "eval", *weights, "--workers", "0", *data, "--run", "scores")
        asked = {"pose2seg": ["--keypoints", data[-1]], "glip": ["--prompt", "a red circle. star."]}.get(name, [])
        call(folder, "predict", *weights, *asked, data[data.index("--data.val.images") + 1], "--out", "found")
        convert(folder.partition("/")[0] if name != "psg" else "psg")
        # a folder's name ends with a hash of the weights' file
        names = {re.sub("-[0-9a-f]{6}/", "/", path.as_posix()): path for path in written() if path.suffix in HASHED}
        return {found: digest(path) for found, path in sorted(names.items())}


def written() -> Iterator[Path]:
    for folder in ("run", "scores", "found", "converted"):
        yield from Path(folder).rglob("*")


def convert(package: str) -> None:
    """The smallest checkpoint of the package's parity cases through the converter."""
    system = {"refinemask_psg": "refinemask"}.get(package, package)
    folders = [Path(os.environ.get("MASKWORKS_PARITY", "")) / system, ROOT / "tests" / "parity" / "cases" / system]
    cases = [read_case(path.parent) for folder in folders for path in sorted(folder.glob("*/spec.json"))]
    layouts = [case for case in cases if len(case.spec["state_dict"]) > 100]
    if layouts:
        case = min(layouts, key=lambda one: (len(one.spec["state_dict"]), one.name))
        torch.save({name: torch.from_numpy(value) for name, value in case.checkpoint().items()}, "published.pth")
        variant = ["--model", case.spec["variant"]] if "variant" in case.spec else []
        words = ["published.pth", "--out", "converted/x.safetensors"]
        done = run("scripts/mmdet2pytorch.py", *words, cwd=Path.cwd(), status=None)
        if done.returncode:
            done = run("scripts/mmdet2pytorch.py", *words, *variant, cwd=Path.cwd(), status=None)
        Path("converted").mkdir(exist_ok=True)
        Path("converted/said.json").write_text(
            json.dumps([done.returncode, done.stderr, done.stdout.splitlines()[:-1]])
        )


def call(folder: str, command: str, *arguments: str) -> None:
    done = run(f"{folder}/{command}.py", *arguments, cwd=Path.cwd(), status=None)
    if done.returncode:
        sys.exit(f"{folder}/{command}.py {shlex.join(arguments)}\n{done.stdout}{done.stderr}")


def digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "log.jsonl":
        lines = [json.loads(line) for line in content.splitlines()]
        content = json.dumps([{k: v for k, v in line.items() if k not in TIMES} for line in lines]).encode()
    if path.suffix == ".safetensors":  # whose metadata lie in any order
        weights, metadata = read_tensors(path)
        content = repr(sorted(metadata.items())).encode()
        content += b"".join(name.encode() + weights[name].numpy().tobytes() for name in sorted(weights))
    return hashlib.sha256(content).hexdigest()[:16]


if __name__ == "__main__":
    main()
