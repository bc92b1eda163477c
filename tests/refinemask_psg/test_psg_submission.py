"""Submissions: written, checked, scored."""

import json
import random
import zipfile

import cv2
import msgspec
import numpy as np
import pytest
import torch

from common import results
from common.errors import UserError
from common.results import Panoptic
from refinemask_psg.psg.files import Box, PsgEntry, PsgFile, Segment
from refinemask_psg.psg.results import Relation, SceneGraph
from refinemask_psg.psg.submission import Check, Score, SubmissionWriter, colours_of
from refinemask_psg.psg.submission_check import check_submission, open_submission
from refinemask_psg.psg.submission_score import score_submission

NAMES = tuple(f"class {index}" for index in range(133))
PREDICATES = tuple(f"predicate {index}" for index in range(56))


def graph(relations=((0, 1, 3), (1, 2, 50))):
    """A wall with two people; a pixel is void."""
    ids = torch.full((40, 60), 131, dtype=torch.int32)
    ids[:20, :20], ids[:20, 20:40] = 1000, 2000
    infos = [results.Segment(*each) for each in ((131, 131, False), (1000, 0, True), (2000, 0, True))]
    return SceneGraph(Panoptic(ids, infos, NAMES, (40, 60)), [Relation(*row, 0.5) for row in relations], PREDICATES)


def submit(folder, *graphs):
    writer = SubmissionWriter(folder)
    for each in graphs:
        writer.add(each)
    return writer.finish()


def truth(folder, count):
    """The file that says the same as graph()."""
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[...] = (0, 0, 131)  # blue, green, red
    picture[:20, :20], picture[:20, 20:40] = (0, 0, 1), (0, 0, 2)
    cv2.imwrite(str(folder / "truth.png"), picture)
    segments = [Segment(131, 131, 0, 1600), Segment(1, 0, 0, 400), Segment(2, 0, 0, 400)]
    boxes = [Box((0, 0, 1, 1), segment.category_id) for segment in segments]
    numbers = list(map(str, range(count)))
    data = [PsgEntry(f"{n}.jpg", 40, 60, n, "truth.png", n, segments, boxes, [(0, 1, 3), (1, 2, 50)]) for n in numbers]
    content = msgspec.json.encode(PsgFile(data, [*NAMES[:80]], [*NAMES[80:]], [*PREDICATES], numbers))
    path = folder / "psg.json"
    path.write_bytes(content)
    return path


def test_what_is_written_has_no_faults(tmp_path, capsys):
    packed = submit(tmp_path, graph(), graph())
    assert packed == tmp_path / "submission.zip"
    assert check_submission(open_submission(packed), truth(tmp_path, 2)) == ([], [])
    Check(packed).run()
    assert "2 images, no faults" in capsys.readouterr().out
    entry = json.loads((tmp_path / "submission" / "relation.json").read_text())[1]
    assert entry["relations"] == [[0, 1, 4], [1, 2, 51]]
    assert [segment["category_id"] for segment in entry["segments_info"]] == [132, 1, 1]
    assert entry["pan_seg_file_name"] == "1.png"


def test_an_older_submission_leaves_nothing_behind(tmp_path):
    submit(tmp_path, graph(), graph(), graph())
    packed = submit(tmp_path, graph())
    assert open_submission(packed).names == ["submission/panseg/0.png", "submission/relation.json"]
    assert len(list((tmp_path / "submission" / "panseg").iterdir())) == 1


def test_the_truth_submitted_scores_full_marks(tmp_path, capsys):
    packed, annotations = submit(tmp_path, graph(), graph()), truth(tmp_path, 2)
    scores = score_submission(open_submission(packed), annotations, tmp_path)
    assert scores["R@20"] == scores["PQ"] == 1.0
    assert scores["mR@20"] == pytest.approx(2 / 56)
    Score(packed, annotations, tmp_path).run()
    assert "PQ: 1.000000" in capsys.readouterr().out


def test_too_few_images_are_not_scored(tmp_path):
    packed, annotations = submit(tmp_path, graph()), truth(tmp_path, 2)
    with pytest.raises(UserError, match="1 entries, but 2 test images have relations"):
        score_submission(open_submission(packed), annotations, tmp_path)


def test_only_the_first_twenty_relations_count(tmp_path):
    wrong = [(0, 2, number) for number in range(20)]
    packed, annotations = submit(tmp_path, graph([*wrong, (0, 1, 3)])), truth(tmp_path, 1)
    assert score_submission(open_submission(packed), annotations, tmp_path)["R@20"] == 0.0
    assert "more than 20 relations" in check_submission(open_submission(packed))[1][0]


def test_colours_are_never_black_nor_the_same_twice():
    class Source(random.Random):
        drawn = iter([[0, 0, 0], [1, 2, 3], [1, 2, 3], [4, 5, 6]])

        def choices(self, population, *, k):
            return next(self.drawn)

    assert colours_of(2, Source()) == [(1, 2, 3), (4, 5, 6)]


def repack(packed, change):
    """The same zip with its files changed."""
    with zipfile.ZipFile(packed) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


RELATION = "submission/relation.json"


def edit(change):
    def apply(files):
        entries = json.loads(files[RELATION])
        change(entries)
        files[RELATION] = json.dumps(entries).encode()

    return apply


FAULTS = {
    "relation 0 names segments 0 and 9 of 3": edit(lambda e: e[0]["relations"].insert(0, [0, 9, 1])),
    "relation 0 has predicate 0, expected 1 to 56": edit(lambda e: e[0]["relations"].insert(0, [0, 1, 0])),
    "segment 1 has category_id 134": edit(lambda e: e[0]["segments_info"][1].update(category_id=134)),
    "which another has too": edit(lambda e: e[0]["segments_info"][1].update(e[0]["segments_info"][0])),
    "is in segments_info but not in its PNG": edit(lambda e: e[0]["segments_info"].append({"category_id": 1, "id": 9})),
    "is in its PNG but not in segments_info": edit(lambda e: e[0]["segments_info"].pop()),
    "is the PNG of 2 entries": edit(lambda e: e[1].update(pan_seg_file_name="0.png")),
    "submission/panseg/0.png is not in the zip": lambda files: files.pop("submission/panseg/0.png"),
    "submission/panseg/0.png cannot be decoded": lambda files: files.update({"submission/panseg/0.png": b"no"}),
    "must be the name of a file in panseg": edit(lambda e: e[0].update(pan_seg_file_name="../0.png")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(tmp_path, fault):
    packed = submit(tmp_path, graph(), graph())
    repack(packed, FAULTS[fault])
    faults, _ = check_submission(open_submission(packed))
    assert any(fault in each for each in faults), faults
    with pytest.raises(UserError, match=r"faults; correct them"):
        Check(packed).run()


def test_a_png_that_is_damaged_inside_the_zip_is_a_fault(tmp_path):
    packed = submit(tmp_path, graph())
    content = bytearray(packed.read_bytes())
    place = content.index(b"submission/panseg/0.png") + len(b"submission/panseg/0.png")
    content[place : place + 8] = bytes(8)
    packed.write_bytes(content)
    assert "0.png is damaged" in check_submission(open_submission(packed))[0][0]


def test_another_size_and_count_than_the_challenges(tmp_path):
    packed, annotations = submit(tmp_path, graph()), truth(tmp_path, 1)
    content = json.loads(annotations.read_text())
    content["data"][0]["height"] = 41
    annotations.write_text(json.dumps(content))
    assert "its PNG is 60 x 40, image 0 is 60 x 41" in check_submission(open_submission(packed), annotations)[0][0]
    annotations = truth(tmp_path, 3)
    assert "relation.json has 1 entries" in check_submission(open_submission(packed), annotations)[0][0]


NO_SUBMISSIONS = {
    "has no relation.json": lambda files: files.pop(RELATION),
    "Expected `array`, got `object`; expected a list with relations": lambda files: files.update({RELATION: b"{}"}),
    r"relation\.json\[0\]: Object missing .*; expected a list with relations": edit(lambda e: e[0].pop("relations")),
}


@pytest.mark.parametrize("problem", NO_SUBMISSIONS)
def test_what_is_no_submission_is_refused(tmp_path, problem):
    packed = submit(tmp_path, graph())
    repack(packed, NO_SUBMISSIONS[problem])
    with pytest.raises(UserError, match=problem):
        open_submission(packed)


def test_a_file_that_is_no_zip_is_refused(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"text")
    with pytest.raises(UserError, match=r"x\.zip: cannot be read as a zip"):
        open_submission(tmp_path / "x.zip")


def test_black_pixels_and_a_flat_layout_are_noted(tmp_path):
    made = graph()
    made.panoptic.segments[30:] = 0
    packed = submit(tmp_path, made)
    repack(packed, lambda files: files.update({name.removeprefix("submission/"): files.pop(name) for name in [*files]}))
    faults, notes = check_submission(open_submission(packed))
    assert faults == []
    assert "not in a folder" in notes[0]
    assert "1 PNGs have black pixels" in notes[1]
