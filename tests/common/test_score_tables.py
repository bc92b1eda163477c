"""Tables of scores on the terminal."""

import math

import pytest

from common.run.score_tables import print_classes, print_scores


def rows(said: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in said.splitlines() if line.startswith("│")]


def test_each_class_has_its_scores_of_masks_and_boxes_the_worst_last(capsys: pytest.CaptureFixture[str]) -> None:
    masks = {"cat": 0.25, "dog": 0.75, "[red] bird": 0.0, "gnu": math.nan}
    print_classes({"segm AP": masks, "bbox AP": {"cat": 0.5, "dog": 0.125, "[red] bird": 0.5, "gnu": math.nan}})
    said = capsys.readouterr().out
    assert said.count("segm AP") == said.count("bbox AP") == 1
    assert rows(said) == [["dog", "0.750", "0.125"], ["cat", "0.250", "0.500"], ["[red] bird", "0.000", "0.500"]]
    assert "1 of 4 classes do not occur in the data" in said


@pytest.mark.parametrize(("count", "shown"), [(30, 30), (31, 21), (80, 21)])
def test_of_many_classes_the_ten_best_and_the_ten_worst_are_shown(
    capsys: pytest.CaptureFixture[str], count: int, shown: int
) -> None:
    print_classes({"PQ": {f"c{number}": (number * 7 % count) / count for number in range(count)}})
    found = rows(capsys.readouterr().out)
    values = [row[1] for row in found if row[1]]
    assert len(found) == shown
    assert values == sorted(values, reverse=True)
    assert (values[0], values[-1]) == (f"{(count - 1) / count:.3f}", "0.000")
    if shown == 21:
        assert found[10] == [f"({count - 20} between)", ""]
        assert (values[9], values[10]) == (f"{(count - 10) / count:.3f}", f"{9 / count:.3f}")


def test_scores_of_other_classes_have_a_table_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    print_classes({"PQ": {"cat": 0.5, "sky": 1.0}, "segm AP": {"cat": 0.25}, "bbox AP": {"cat": 0.5}})
    said = capsys.readouterr().out
    assert rows(said) == [["sky", "1.000"], ["cat", "0.500"], ["cat", "0.250", "0.500"]]
    assert "do not occur" not in said


def test_what_cannot_be_scored_is_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores({"segm": {"AP": 0.5, "APs": -1.0}, "panoptic": {"All": {"pq": None, "n": 3}, "per_class": {1: {}}}})
    assert rows(capsys.readouterr().out) == [["segm", "0.500", "-", "", ""], ["panoptic All", "", "", "-", "3"]]
    print_classes({"AP": {"cat": math.nan}})
    assert capsys.readouterr().out == "1 of 1 classes do not occur in the data\n"
