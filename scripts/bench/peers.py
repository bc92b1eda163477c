"""From a photograph's file to COCO RLE: our packages beside the programs that people would take in their place.

PEER_PYTHON=peers/bin/python python scripts/bench/peers.py    a Python with MMDetection; without one: torchvision only
python scripts/bench/peers.py --cases yolact --rounds 3       those whose name contains a word, and fewer rounds

Both sides have the same made-up weights, converted by our converter, each in a process of its own. What they find is
compared first, and no time is printed where it differs. Milliseconds of CPU time on one thread, the sides in turn, the
least of all rounds; peaks of memory in MB, libraries included. The command is predict.py, which also draws, and writes
masks, JSON and a report: what a photograph more costs it.

The environment of MMDetection (mmcv-lite has no compiled operators; the two that Mask R-CNN needs are torchvision's):

    python -m venv peers && peers/bin/python -m pip install --editable ".[bench]"
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import tyro

from common.data.images import resize
from common.errors import UserError
from common.ops import masks as rle
from maskworks.command_line import program
from maskworks.shapes.scenes import draw_scene

HERE = Path(__file__).resolve().parent
PROGRAMS = {  # what each is measured beside
    "solov2 light_r18_448": "MMDetection",
    "solov2 r50_3x": "MMDetection",
    "yolact base": "MMDetection",
    "maskrcnn mmdet3_r50_fpn": "MMDetection",
    "maskrcnn torchvision_r50_fpn": "torchvision",
}
PHOTOGRAPH = "photograph.jpg"
Found = list[dict[str, Any]]  # class, score, mask as RLE
STAGES = ("decode", "preprocess", "network", "post-process", "encode")
SCORE, OVERLAP, AGREEING = 1e-3, 0.98, 0.98  # how near two detections are that agree, and how many have to
PHOTOGRAPHS = 4  # beyond the first, of which the command's time for each is told


class Side:
    """A process that answers requests."""

    def __init__(self, python: str, program: str, *arguments: str):
        command = [python, str(HERE / program), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=alone(), text=True
        )
        self.seconds: list[float] = []
        self.peak = 0.0  # MB

    def ask(self, request: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(map(str, self.process.args))} ended")
        answer, seconds, self.peak = json.loads(line)
        self.seconds.append(seconds)
        return answer

    def end(self) -> float:
        self.process.communicate()
        return self.peak


def alone() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return os.environ | one | {"PYTHONPATH": str(HERE.parents[1])}


def run(python: str, program: str, *arguments: str) -> None:
    words = [python, str(HERE / program), *arguments]
    done = subprocess.run(words, env=alone(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{program} {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")


def prepare(case: str, python: str, folder: Path, numbers: tuple[int, ...]) -> None:
    """The photograph, and the weights of both sides for each number of objects, unless they are there."""
    photograph, file = folder / PHOTOGRAPH, folder / f"{case}.pth"
    if not photograph.exists():
        scene = resize(draw_scene(0, "val", 0).image, 480, 640)
        cv2.imwrite(str(photograph), cv2.cvtColor(scene, cv2.COLOR_RGB2BGR))
    if not all((folder / f"{case}-{number}.pth").exists() for number in numbers):
        run(python, "_peer_side.py", "make", case, str(file), str(photograph))
        run(sys.executable, "_our_side.py", "calibrate", case, str(file), str(photograph), *map(str, numbers))


def measure(case: str, python: str, folder: Path, number: int, rounds: int) -> tuple[str, str]:
    """A line of the table of times, and one of the table of stages."""
    ours_file, photograph = str(folder / f"{case}-{number}.safetensors"), str(folder / PHOTOGRAPH)
    ours = Side(sys.executable, "_our_side.py", "answer", case, ours_file)
    theirs = Side(python, "_peer_side.py", "answer", case, str(folder / f"{case}-{number}.pth"))
    found = theirs.ask(photograph), ours.ask(photograph)
    agreeing, most = agreement(*found), max(map(len, found))
    head = f"{case:29}{PROGRAMS[case]:12}{f'{agreeing}/{most}':>8}"
    if agreeing < AGREEING * most:
        for side in (ours, theirs):
            side.end()
        return f"{head}  they differ: not measured", ""
    spent: list[tuple[float, float, float]] = []
    for turn in range(rounds):
        theirs.ask(photograph)
        ours.ask(photograph)
        if turn % 3 == 0:
            spent.append(command(case.partition(" ")[0], ours_file, folder))
    sides = [(min(side.seconds[1:]), side.end()) for side in (theirs, ours)]
    one, all_of_them, peak = (min(column) for column in zip(*spent, strict=True))
    sides.append(((all_of_them - one) / PHOTOGRAPHS, peak))
    times = [f"{1000 * seconds:>9,.0f}" for seconds, _ in sides]
    ratios = [f" {sides[0][0] / seconds:.2f}x" for seconds, _ in sides]
    peaks = "".join(f"{peak:>9,.0f}" for _, peak in sides)
    stages = Side(sys.executable, "_our_side.py", "stages", case, ours_file)
    parts = [stages.ask(photograph) for _ in range(rounds + 1)][1:]
    stages.end()
    least = "".join(f"{1000 * min(part[stage] for part in parts):>14,.1f}" for stage in STAGES)
    return f"{head}{times[0]}{times[1]}{ratios[1]}{times[2]}{ratios[2]}{peaks}", f"{case:29}{number:>4}{least}"


def agreement(theirs: Found, ours: Found) -> int:
    """How many of theirs have one of ours of the same class, score and pixels."""
    if not theirs or not ours:
        return 0
    mine = rle.decode([each["rle"] for each in ours]).reshape(len(ours), -1)
    left, agreeing = set(range(len(ours))), 0
    for each, mask in zip(theirs, rle.decode([each["rle"] for each in theirs]).reshape(len(theirs), -1), strict=True):
        for index in sorted(left):
            like = each["label"] == ours[index]["label"] and abs(each["score"] - ours[index]["score"]) < SCORE
            if like and (mask & mine[index]).sum() >= OVERLAP * (mask | mine[index]).sum():
                left.remove(index)
                agreeing += 1
                break
    return agreeing


def command(package: str, weights: str, folder: Path) -> tuple[float, float, float]:
    """CPU seconds that predict.py takes for one photograph and for PHOTOGRAPHS more, and its peak in MB."""
    copies = [folder / f"{number}.jpg" for number in range(1 + PHOTOGRAPHS)]
    seconds = []
    for copy in copies:
        copy.write_bytes((folder / PHOTOGRAPH).read_bytes())
    for count in (1, len(copies)):
        words = [*map(str, copies[:count]), "--weights", weights, "--device", "cpu", "--out"]
        with tempfile.TemporaryDirectory() as out:
            program = [sys.executable, "-m", f"{package}.predict", *words, out]
            process = subprocess.Popen(program, env=alone(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
        if status:
            raise UserError(f"{' '.join(program)} failed")
        seconds.append(used.ru_utime + used.ru_stime)
    return seconds[0], seconds[1], used.ru_maxrss / 1024


def main(
    cases: tuple[str, ...] = ("",),
    numbers: tuple[int, ...] = (2, 30, 100),
    rounds: int = 7,
    peer_python: str = os.environ.get("PEER_PYTHON", ""),
    folder: Path | None = None,
) -> None:
    """Weights are kept in `folder`, and taken from there the next time."""
    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        print(
            f"{'':41}{'agree':>8}{'theirs':>9}{'predict':>9}{'':6}{'command':>9}{'':6}{'MB':>9}{'ours':>9}{'command':>9}"
        )
        tables: list[str] = []
        for case, program in PROGRAMS.items():
            if not any(word in case for word in cases):
                continue
            if program == "MMDetection" and not peer_python:
                print(f"{case:29}{program}: not measured; PEER_PYTHON names no Python that has it")
                continue
            python = peer_python or sys.executable
            prepare(case, python, place, numbers)
            for number in numbers:
                line, stages = measure(case, python, place, number, rounds)
                print(line, flush=True)
                tables.append(stages)
        print(f"\nOurs by stage\n\n{'':29}{'':4}{''.join(f'{stage:>14}' for stage in STAGES)}")
        print("\n".join(filter(None, tables)))


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, description=__doc__))
