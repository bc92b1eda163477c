"""The doctor names every fault with its entry, counts them, and says by its exit status what it found."""

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.errors import UserError
from tests.common import coco_example
from tests.common.coco_example import HEIGHT, WIDTH, write
from tests.given import given_folder
from tests.running import python
from upsnet.panoptic_data import PanopticDataset

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "scripts" / "check_dataset.py"
Examine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(tmp_path / "images" / name), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return tmp_path


def annotation(identity: int, **changes: Any) -> dict[str, Any]:
    return coco_example.annotation(identity, image=1, category=1) | changes


def content() -> dict[str, Any]:
    return {
        "images": [{"id": i, "file_name": f"{'_ab'[i]}.jpg", "height": HEIGHT, "width": WIDTH} for i in (1, 2)],
        "categories": [{"id": 1, "name": "person"}, {"id": 5, "name": "cat [small]"}],
        "annotations": [annotation(1), annotation(2, category_id=5)],
    }


@pytest.fixture
def examine(folder: Path, capsys: pytest.CaptureFixture[str]) -> Examine:
    def run(data: Any, **options: Any) -> tuple[int, str, str]:
        doctor = runpy.run_path(str(PROGRAM))
        status = doctor["main"](doctor["Settings"](write(folder / "images", data), **options))
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
    done = python(PROGRAM, write(folder / "images", data), "--images", folder / "images", cwd=folder, status=1)
    assert "missing image" in done.stdout
    assert done.stderr == ""


SQUARE = [4, 4, 14, 4, 14, 14, 4, 14]  # 10 x 10
RLE = {"size": [HEIGHT, WIDTH], "counts": [4 * HEIGHT + 4, 100, HEIGHT * WIDTH - 4 * HEIGHT - 104]}


def kinds(output: str) -> set[str]:
    cells = [line.split("│")[1].strip() for line in output.splitlines() if line.startswith("│")]
    return set(filter(None, cells))


@pytest.mark.parametrize(
    ("area", "noted"), [(100, False), (85, False), (120, False), (10, True), (3, True), (3000, True)]
)
@pytest.mark.parametrize("segmentation", [[SQUARE], RLE])
def test_an_area_that_contradicts_the_mask_is_a_note(
    examine: Examine, area: float, noted: bool, segmentation: Any
) -> None:
    data = content()
    box = [4, 4, 10, 10] if segmentation == [SQUARE] else [4, 0, 5, HEIGHT]
    data["annotations"][0] |= {"segmentation": segmentation, "area": area, "bbox": box}
    status, output, _ = examine(data)
    assert status == 0
    assert kinds(output) == ({"wrong area"} if noted else set())
    assert ("no faults; 1 notes" in output) == noted


def test_corners_in_place_of_extents_are_a_note(examine: Examine) -> None:
    data = content()
    data["annotations"][0] |= {"segmentation": [SQUARE], "area": 100, "bbox": [4, 4, 28, 20]}
    status, output, _ = examine(data)
    assert (status, kinds(output)) == (0, {"wrong box"})


def test_what_can_be_computed_again_is_written_to_another_file(folder: Path, examine: Examine) -> None:
    data = content() | {"info": {"kept": True}}
    own = {"segmentation": [SQUARE], "area": 100, "bbox": [4, 4, 10, 10]}
    data["annotations"] = [
        annotation(0, **own, attributes="kept"),
        annotation(3, **own),
        annotation(3, **own, category_id=5),
        annotation(4, **own | {"area": 4}),
        annotation(5, **own | {"bbox": [float("nan"), 4, 10, 10]}),
        annotation(6, **own | {"bbox": [4, 4, -10, 10]}),
        annotation(7, **own | {"segmentation": [SQUARE, [1, 2, 3, 4]]}),
        annotation(8, **own | {"segmentation": [[3, 3, 3, 3, 3, 3]]}),
        annotation(9, **own | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}),
        annotation(10, **own | {"segmentation": []}),
        annotation(11, **own | {"area": float("nan")}),
        {key: value for key, value in annotation(12, **own).items() if key not in ("area", "bbox", "id")},
    ]
    data["images"].append(dict(data["images"][0]))
    out = folder / "fixed.json"
    status, output, errors = examine(data, fix=out)
    assert (status, errors) == (0, "")
    assert "no faults" in output
    assert "notes" not in output
    assert json.loads((folder / "annotations.json").read_text())["annotations"][0]["id"] == 0, "never in place"
    fixed = json.loads(out.read_text())
    assert fixed["info"] == {"kept": True}
    assert len(fixed["images"]) == 2
    found = fixed["annotations"]
    assert len({entry["id"] for entry in found}) == len(found) == 9
    assert [entry["id"] for entry in found[1:2]] == [3], "sound ids stay"
    assert found[0]["attributes"] == "kept"
    assert {entry["area"] for entry in found} == {100}
    assert all(entry["bbox"] == [4, 4, 10, 10] for entry in found)


def test_nothing_is_written_over_a_file_that_is_there(folder: Path, examine: Examine) -> None:
    status, output, errors = examine(content(), fix=folder / "annotations.json")
    assert (status, output) == (2, "")
    assert "exists already" in errors
    assert json.loads((folder / "annotations.json").read_text()) == content()


def test_what_nobody_can_compute_is_left_to_the_user(folder: Path, examine: Examine) -> None:
    data = content()
    data["annotations"] += [annotation(20, image_id=77), annotation(25, segmentation=[[1, 2, 3, 4, 5, 6, 7]])]
    status, output, _ = examine(data, fix=folder / "fixed.json")
    assert (status, kinds(output)) == (1, {"unknown image", "odd polygon", "empty mask"} & kinds(output))
    assert {"unknown image", "odd polygon"} <= kinds(output)


def panoptic(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two segments, of 24 x 20 and 24 x 10 pixels; two columns belong to none. The PNGs lie in `annotations`."""
    ids = np.zeros((HEIGHT, WIDTH, 3), np.uint8)  # blue, green, red
    ids[:, :20] = (0, 1, 7)
    ids[:, 20:30] = (1, 0, 0)
    (folder / "annotations").mkdir()
    cv2.imwrite(str(folder / "annotations" / "a.png"), ids)
    segments = [
        {"id": 263, "category_id": 1, "area": 480, "bbox": [0, 0, 20, 24], "iscrowd": 0},
        {"id": 65536, "category_id": 5, "area": 240, "bbox": [20, 0, 10, 24], "iscrowd": 0} | changes,
    ]
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "person", "isthing": 1}, {"id": 5, "name": "sky", "isthing": 0}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": segments}],
    }


def test_a_sound_panoptic_file_is_said_to_be_sound(folder: Path, examine: Examine) -> None:
    status, output, errors = examine(panoptic(folder), images=folder / "images")
    assert (status, errors) == (0, "")
    assert "1 images, 2 segments, 2 classes (1 of things); no faults" in output
    assert "notes" not in output


@pytest.mark.parametrize(
    ("changes", "status", "expected"),
    [
        ({"area": 24}, 0, {"wrong area"}),
        ({"id": 9}, 1, {"unknown segment", "empty segment"}),
        ({"category_id": 8}, 1, {"unknown category", "class without examples"}),
        ({"id": 263}, 1, {"duplicate segment", "unknown segment", "wrong area"}),
    ],
)
def test_faults_of_panoptic_files_are_named(
    folder: Path, examine: Examine, changes: dict[str, int], status: int, expected: set[str]
) -> None:
    found, output, _ = examine(panoptic(folder, **changes))
    assert (found, kinds(output)) == (status, expected)


def test_a_png_that_is_missing_of_another_size_or_none_is_named(folder: Path, examine: Examine) -> None:
    data = panoptic(folder)
    data["annotations"][0]["file_name"] = "b.png"
    assert kinds(examine(data)[1]) == {"missing image"}
    cv2.imwrite(str(folder / "annotations" / "b.png"), np.zeros((8, 8, 3), np.uint8))
    assert kinds(examine(data)[1]) == {"wrong size", "empty segment"}
    (folder / "annotations" / "b.png").write_text("hello")
    assert kinds(examine(data)[1]) == {"bad PNG"}


def test_pngs_in_a_folder_of_another_name_are_asked_for_by_the_right_one(folder: Path, examine: Examine) -> None:
    data = panoptic(folder)
    (folder / "annotations").rename(folder / "pngs")
    status, output, errors = examine(data)
    assert (status, output) == (2, "")
    assert "annotations: no such folder; the PNGs of annotations.json belong beside it" in errors
    assert examine(data, pictures=folder / "pngs")[0] == 0
    images, file = folder / "images", folder / "annotations.json"
    with pytest.raises(UserError, match=r"no such folder; the PNGs of annotations\.json belong"):
        PanopticDataset([images], [file])


def test_areas_and_boxes_of_segments_are_counted_in_the_pngs(folder: Path, examine: Examine) -> None:
    data = panoptic(folder, area=8, bbox=[0, 0, 1, 1])
    data["annotations"][0]["segments_info"].append({"id": 9, "category_id": 5, "area": 3, "iscrowd": 0})
    out = folder / "fixed.json"
    status, output, _ = examine(data, fix=out)
    assert status == 0
    assert "notes" not in output
    segments = json.loads(out.read_text())["annotations"][0]["segments_info"]
    assert [(entry["area"], entry["bbox"]) for entry in segments] == [(480, [0, 0, 20, 24]), (240, [20, 0, 10, 24])]


def test_cocos_own_panoptic_files_have_no_faults(examine: Examine, capsys: pytest.CaptureFixture[str]) -> None:
    given = given_folder("MASKWORKS_DATA", "panoptic_sample")
    doctor = runpy.run_path(str(PROGRAM))
    assert doctor["main"](doctor["Settings"](given / "panoptic.json", given / "images")) == 0
    assert "no faults" in capsys.readouterr().out


def test_files_of_boxes_keep_what_has_extent_inside_its_image(folder: Path, examine: Examine) -> None:
    data = content()
    boxes = {1: [2, 2, 5, 4], 2: [2, 2, 0, 4], 3: [40, 2, 5, 4], 4: [-9, 2, 9, 4], 5: [30, 20, 9, 9]}
    data["annotations"] = [annotation(i, bbox=box, area=-1, segmentation=None) for i, box in boxes.items()]
    status, output, _ = examine(data, fix=folder / "fixed.json")
    assert (status, kinds(output)) == (0, {"class without examples"})
    found = json.loads((folder / "fixed.json").read_text())["annotations"]
    assert [(entry["id"], entry["area"]) for entry in found] == [(1, 20), (5, 81)]


@pytest.mark.parametrize(
    "changes",
    [
        {"images": None},
        {"images": [None, {"id": [1]}]},
        {"annotations": [None, 3, {"image_id": {}, "segmentation": [[SQUARE]]}, {"segmentation": {"size": 3}}]},
        {"annotations": [{"id": 1, "segments_info": None}, None]},
        {"annotations": [{"id": 1, "segments_info": [None, {"id": [1]}], "file_name": "a.png"}]},
        {"annotations": {}},
    ],
)
def test_a_file_of_nonsense_is_repaired_as_far_as_it_goes(folder: Path, examine: Examine, changes: Any) -> None:
    """No traceback, whatever it holds."""
    panoptic(folder)
    status, _, errors = examine(content() | changes, fix=folder / "fixed.json")
    assert status in (1, 2)
    assert errors.count("\n") == (status == 2)


def test_a_folder_of_own_data_is_checked_part_by_part_and_both_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    doctor = runpy.run_path(str(PROGRAM))

    def status(**options: Any) -> int:
        code: int = doctor["main"](doctor["Settings"](tmp_path / "own", **options))
        return code

    (tmp_path / "own").mkdir()
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"own/{number}.png"), np.full((HEIGHT, WIDTH, 3), number, np.uint8))
        shape = {"label": "cat", "points": [[2, 2], [20, 4], [9, 18]]}
        (tmp_path / f"own/{number}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{number}.png"}))
    assert status() == 0
    said = capsys.readouterr().out
    assert "taken for labelme's JSON files" in said
    assert said.count("no faults") == 3
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"own/{number}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert status() == 1
    assert "pictures that train and validate" in capsys.readouterr().out
    assert status(images=tmp_path) == 2
    assert "are for a file" in capsys.readouterr().err
