"""The table of origins is made of what the converter decides, and what it refuses is listed with its reason."""

import json
from pathlib import Path

import pytest

from common.errors import UserError
from scripts.checkpoint_table import CASES, Decided, count, refuse_to_lose, table


def test_a_zoos_files_are_counted_by_configuration_and_by_name(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    case = json.loads((CASES / "solov2" / "adelaidet_r50_3x" / "spec.json").read_text(encoding="utf-8"))
    layout = {name: [entry["shape"], "float32"] for name, entry in case["state_dict"].items()}
    refused = {"MODEL": {"SOLOV2": {"NMS_TYPE": "mask"}}}
    for name, content in {
        "a": {"state_dict": layout, "recipe": case["settings"]["detectron2"]},
        "b": {"state_dict": layout, "recipe": refused},
        "c": {"state_dict": {"something.else": [[2, 3], "float32"]}},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    assert list(count(tmp_path)) == [Decided("solov2", "AdelaiDet", "adelaidet_r50_3x")] * 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("1 of 3 convert by their configuration")
    assert lines[1].endswith("2 of 3 convert by their name alone")
    assert "b, by its configuration" in lines[2] and "NMS_TYPE = 'mask'" in lines[2]
    assert "no model known here has its names" in lines[3] and len(lines) == 5


def test_a_row_names_the_variants_and_the_cases_of_its_origin() -> None:
    found = Decided("solov2", "AdelaiDet", "adelaidet_r101_3x")
    rows = {row.split(" | ")[0].strip("| "): row for row in table([found], {"some_case": found}).splitlines()}
    assert rows["AdelaiDet"] == "| AdelaiDet | `solov2` | `adelaidet_r101_3x` | some_case |"
    assert "no case: names and shapes only" in rows["dbolya/yolact"]
    assert {"Detectron2, Cascade R-CNN", "uber-research/UPSNet", "liruilong940607/Pose2Seg"} <= set(rows)


def test_a_page_is_not_written_without_the_cases_that_it_names(tmp_path: Path) -> None:
    found = Decided("solov2", "AdelaiDet", "adelaidet_r101_3x")
    page = tmp_path / "README.md"
    page.write_text(f"<!-- checkpoints: -->\n{table([], {'one': found, 'two': found})}\n<!-- end of checkpoints -->")
    refuse_to_lose(page, table([], {"one": found, "two": found, "three": found}))
    with pytest.raises(UserError, match=r"not given \(two\); add their folders to --cases"):
        refuse_to_lose(page, table([], {"one": found}))
