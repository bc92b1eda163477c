"""Objects of a film keep their numbers, through a crossing too, in its lines of JSON and its drawing."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.results import Instances
from maskworks.prediction.command import Predict, Work, predict
from maskworks.prediction.film import predict_film, write_video

SIDE, FRAMES = 24, 24


def squares(frame: int) -> list[tuple[int, int]]:
    """Left and top of two that pass each other, one to the right and one to the left, a little lower."""
    return [(4 + 5 * frame, 30), (124 - 5 * frame, 42)]


def found_in(frame: int) -> Instances:
    """Both squares, in another order in each frame, as a stand-in for a model finds them."""
    boxes = torch.tensor([[x, y, x + SIDE, y + SIDE] for x, y in squares(frame)], dtype=torch.float32)
    order = torch.tensor([0, 1] if frame % 2 else [1, 0])
    return Instances(torch.tensor([0.9, 0.8]), order, boxes[order], None, (96, 160), ("right", "left"))


def film(folder: Path) -> Path:
    frames = [np.zeros((96, 160, 3), np.uint8) for _ in range(FRAMES)]
    write_video(folder / "in.mp4", frames, 25)
    return folder / "in.mp4"


def test_numbers_stay_with_their_objects_through_a_crossing(tmp_path: Path) -> None:
    pytest.importorskip("trackers", reason="pip install trackers for this test")
    frames, drawn = iter(range(FRAMES)), []

    def find(_: Any) -> Instances:
        drawn.append(found_in(next(frames)))
        return drawn[-1]

    predict_film(find, film(tmp_path), tmp_path / "out.mp4", (7, 8), 0.3, limit=0, track=True)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == FRAMES
    of_class: dict[int, set[int]] = {7: set(), 8: set()}
    assert not any("track_id" in annotation for annotation in lines[0]["annotations"])  # seen first
    for line in lines[1:]:
        for annotation in line["annotations"]:
            of_class[annotation["category_id"]].add(annotation["track_id"])
    assert [len(numbers) for numbers in of_class.values()] == [1, 1]
    assert of_class[7] != of_class[8]


def test_numbers_are_in_drawings_coco_and_selections() -> None:
    result = found_in(0)
    plain = np.asarray(result.draw(np.zeros((96, 160, 3), np.uint8)))
    assert "track_id" not in result.to_coco()[0]
    result.track_ids = torch.tensor([5, -1])
    assert [entry.get("track_id") for entry in result.to_coco()] == [5, None]
    assert [entry.get("track_id") for entry in result[1:].to_coco()] == [None]
    assert (np.asarray(result.draw(np.zeros((96, 160, 3), np.uint8))) != plain).any()


def test_what_cannot_be_followed_is_a_line(tmp_path: Path, monkeypatch: Any) -> None:
    source = film(tmp_path)
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match="--track needs trackers, which is not installed: pip install trackers"):
        predict_film(lambda frame: found_in(0), source, tmp_path / "out.mp4", (7, 8), 0.3, limit=0, track=True)
    (tmp_path / "a.png").write_bytes(b"")
    options = Predict([str(tmp_path / "a.png"), str(source)], "w", str(tmp_path / "out"), track=True)
    with pytest.raises(UserError, match=r"--track: .*a\.png is no film"):
        Work(options, {})
    with pytest.raises(UserError, match="--track: this model finds segments"):
        predict(None, ("a",), (1,), options, thing_count=1)  # type: ignore[arg-type]
