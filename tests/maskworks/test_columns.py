"""Columns of large annotation files in the cache: what is read from them is what is read from the JSON."""

import json
import logging
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.coco import CocoDataset as AsRead
from common.data.coco import read_usable
from common.errors import UserError
from maskworks import shapes
from maskworks.shards import columns

CocoDataset = partial(AsRead, read=columns.kept)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> shapes.ShapesFolder:
    return shapes.ensure("train", seed=3, count=12, cache=tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def files(scenes, tmp_path) -> dict[str, Path]:
    """Of objects in no order and with an entry to leave out, and of key points."""
    content = json.loads(scenes.instances.read_text())
    np.random.default_rng(0).shuffle(content["annotations"])
    content["annotations"][3]["bbox"] = [0, 0, 0, 0]
    (tmp_path / "objects.json").write_text(json.dumps(content))
    return {"objects": tmp_path / "objects.json", "people": scenes.keypoints}


def all_of(dataset: AsRead) -> list[Any]:
    own = [np.asarray(getattr(dataset, name)).tolist() for name in ("image_ids", "sizes", "boxes", "labels", "crowd")]
    return [*own, dataset.class_names, dataset.annotations_json(), [dataset.polygons(i) for i in range(len(dataset))]]


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """From now on all columns are kept here."""
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKWORKS_COLUMNS_MEGABYTES", "0")
    return tmp_path / "cache/annotations"


@pytest.mark.parametrize("options", [{}, {"limit": 5}, {"keep_empty": False}])
@pytest.mark.parametrize("name", ["objects", "people"])
def test_a_data_set_is_the_same_from_columns(scenes, files, request, name, options):
    expected = CocoDataset([scenes.images], [files[name]], **options)
    folder = request.getfixturevalue("kept")
    for _ in range(2):
        found = CocoDataset([scenes.images], [files[name]], **options)
        np.testing.assert_equal(all_of(found), all_of(expected))
        np.testing.assert_array_equal(found[1].masks, expected[1].masks)
    assert len([place for place in folder.iterdir() if place.is_dir()]) == 1


def test_a_union_is_the_same_from_columns(scenes, files, request):
    sources = [scenes.images], [files["objects"], scenes.instances]
    expected = CocoDataset(*sources)
    request.getfixturevalue("kept")
    np.testing.assert_equal(all_of(CocoDataset(*sources)), all_of(expected))


def test_annotations_are_mapped_and_not_copied(scenes, files, kept):
    dataset = CocoDataset([scenes.images], [files["objects"]])
    for column in (dataset.boxes, dataset.labels, dataset.crowd, dataset.areas, dataset.source_ids, dataset._text):
        assert isinstance(column, np.memmap)


def test_what_is_left_out_is_said_again_and_a_changed_file_is_read_anew(scenes, files, kept, caplog):
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            before = CocoDataset([scenes.images], [files["objects"]])
        assert "left out 1 x degenerate box" in caplog.text
    content = json.loads(files["objects"].read_text())
    content["annotations"].pop(0)
    files["objects"].write_text(json.dumps(content))
    assert len(CocoDataset([scenes.images], [files["objects"]]).boxes) == len(before.boxes) - 1


def test_a_faulty_file_leaves_no_columns(scenes, files, kept):
    content = json.loads(files["objects"].read_text())
    content["annotations"][0]["category_id"] = 999
    files["objects"].write_text(json.dumps(content))
    with pytest.raises(UserError, match="category_id is not among"):
        CocoDataset([scenes.images], [files["objects"]])
    assert not [place for place in kept.iterdir() if place.is_dir()]


def test_several_processes_ask_at_once_and_one_of_them_reads(files, kept):
    read = multiprocessing.Value("i", 0)

    def ask() -> None:
        def counted(path: Path) -> Any:
            with read.get_lock():
                read.value += 1
            return read_usable(path)

        columns.kept(files["objects"], counted)

    processes = [multiprocessing.get_context("fork").Process(target=ask) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert read.value == 1


def test_small_files_are_not_kept_and_a_bound_is_a_number(scenes, tmp_path, monkeypatch):
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    CocoDataset([scenes.images], [scenes.instances])
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("MASKWORKS_COLUMNS_MEGABYTES", "many")
    with pytest.raises(UserError, match="expected a number of megabytes"):
        CocoDataset([scenes.images], [scenes.instances])
