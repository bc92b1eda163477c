"""The doctor names every fault with its entry, counts them, and says by its exit status what it found."""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "scripts" / "check_dataset.py"
Examine = Callable[..., tuple[int, str, str]]
HEIGHT, WIDTH = 24, 32
TRIANGLE = [2.0, 2.0, 20.5, 4.0, 9.25, 18.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / "images" / name), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return tmp_path


def annotation(identity: int, **changes: Any) -> dict[str, Any]:
    entry = {"id": identity, "image_id": 1, "category_id": 1, "bbox": [2, 2, 18, 16], "area": 150, "iscrowd": 0}
    return entry | {"segmentation": [TRIANGLE]} | changes


def content() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{'_ab'[i]}.jpg", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person"}, {"id": 5, "name": "cat [small]"}],
        "annotations": [annotation(1), annotation(2, category_id=5)],
    }


def write(folder: Path, data: Any) -> Path:
    file = folder / "annotations.json"
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


@pytest.fixture
def examine(folder: Path, capsys: pytest.CaptureFixture[str]) -> Examine:
    def run(data: Any, **options: Any) -> tuple[int, str, str]:
        doctor = runpy.run_path(str(PROGRAM))
        status = doctor["main"](doctor["Settings"](write(folder, data), **options))
        return status, *capsys.readouterr()

    return run


def test_a_sound_data_set_is_said_to_be_sound(folder: Path, examine: Examine) -> None:
    status, output, errors = examine(content(), images=folder / "images")
    assert (status, errors) == (0, "")
    assert "2 images (1 without annotations), 2 annotations, 2 classes; no faults" in output


def test_every_fault_is_named_with_entry_and_remedy_in_one_table(folder: Path, examine: Examine) -> None:
    images = folder / "images"
    cv2.imwrite(str(images / "small.jpg"), np.zeros((8, 8, 3), np.uint8))
    whole = (images / "a.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "text.jpg").write_text("hello")
    (folder / "secret.jpg").write_bytes(whole)
    data = content()
    names = {10: "small.jpg", 11: "cut.jpg", 12: "text.jpg", 13: "none.jpg", 14: "../secret.jpg"}
    data["images"] += [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in names.items()]
    data["images"].append({"id": 15, "file_name": "a.jpg", "height": HEIGHT})
    data["images"].append(data["images"][1])
    data["categories"].append({"id": 9, "name": "unseen"})
    data["annotations"] += [
        annotation(0),
        annotation(2),
        annotation(20, image_id=77),
        annotation(21, category_id=77),
        annotation(22, bbox=[float("nan"), 1, 2, 3]),
        annotation(23, bbox=[1, 1, -2, 3]),
        annotation(24, bbox=[1, 1, 0, 3]),
        annotation(25, segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        annotation(26, segmentation=[[1, 2, 3, 4]]),
        annotation(27, segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 6]}),
        annotation(28, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}),
        annotation(29, segmentation=[[0, 0, 1e300, 5, 3, 1e300]]),
        annotation(30, segmentation=[[3, 3, 3, 3, 3, 3]]),
    ]
    status, output, errors = examine(data, images=images)
    assert (status, errors) == (1, "")
    rows = [[cell.strip() for cell in line.split("│")] for line in output.splitlines() if "│" in line]
    faults, kind = set(), ""
    for _, fault, _, _, where, problem, remedy, _ in rows:
        kind = fault or kind
        assert (problem and remedy) or not where, "what is wrong and what to do"
        faults.add((kind, where.split(" (")[0]))
    expected = {
        ("bad entry", "image 15"),
        ("duplicate image id", "image 2"),
        ("duplicate annotation id", "annotation 2"),
        ("id 0", "annotation 0"),
        ("unknown image", "annotation 20"),
        ("unknown category", "annotation 21"),
        ("NaN box", "annotation 22"),
        ("negative box", "annotation 23"),
        ("degenerate box", "annotation 24"),
        ("odd polygon", "annotation 25"),
        ("tiny polygon", "annotation 26"),
        ("bad RLE", "annotation 27"),
        ("empty mask", "annotation 28"),
        ("bad polygon", "annotation 29"),
        ("empty mask", "annotation 30"),
        ("class without examples", "category 9"),
        ("wrong size", "image 10"),
        ("bad image", "image 11"),
        ("bad image", "image 12"),
        ("missing image", "image 13"),
        ("path outside", "image 14"),
    }
    assert expected <= faults, expected - faults
    assert "truncated" in output


def test_many_faults_of_a_kind_are_counted(examine: Examine) -> None:
    data = content()
    data["annotations"] += [annotation(i, category_id=8) for i in range(100, 150)]
    _, output, _ = examine(data)
    assert "annotation 119" in output
    assert "annotation 120" not in output
    assert "... and 30 more" in output
    assert "50 faults: 50 stops training" in output
    _, output, _ = examine(data, show=0)
    assert "annotation 149" in output


@pytest.mark.parametrize("text", ['{"images": [', "[]", "", '{"images": [], "annotations": []}'])
def test_an_unusable_file_is_one_line_and_status_2(text: str, folder: Path, examine: Examine) -> None:
    status, output, errors = examine(text)
    assert status == 2
    assert not output
    assert errors.count("\n") == 1
    assert str(folder / "annotations.json") in errors


def test_a_missing_folder_is_status_2(folder: Path, examine: Examine) -> None:
    status, _, errors = examine(content(), images=folder / "nowhere")
    assert status == 2
    assert "nowhere: no such folder" in errors


def test_the_program_takes_a_file_and_a_folder_and_exits_with_the_status(folder: Path) -> None:
    data = content()
    data["images"][1]["file_name"] = "none.jpg"
    command = [sys.executable, str(PROGRAM), str(write(folder, data)), "--images", str(folder / "images")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "missing image" in done.stdout
