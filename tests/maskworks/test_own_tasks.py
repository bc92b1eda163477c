"""--data for panoptic maps, joints, captions and scene graphs: the layouts that their users have, split if need be."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refinemask_psg
import upsnet
from common.errors import UserError
from common.run.callbacks import Run
from common.run.settings import Data, Training
from glip.captioned_data import CaptionedDataset, open_data
from maskworks import commands, own_data, shapes
from maskworks.own_data.checks import wasted_by
from maskworks.own_data.coco_files import counted_segments
from pose2seg.config import PeopleData
from pose2seg.people import open_people
from refinemask_psg.psg.data import PsgDataset
from tests.maskworks.own_data_formats import text
from tests.running import call
from tests.small import SMALL
from upsnet.panoptic_data import open_panoptic

OPEN: dict[str, Any] = {
    "panoptic": lambda data, split: open_panoptic(data, split, Training()),
    "keypoints": lambda data, split: open_people(data, split, Training()),
    "captions": lambda data, split: open_data(data, split, Training()),
    "scene_graph": lambda data, split: PsgDataset(*commands.files_of(data, split), split),
}


def drawn(folder: Path, split: Any = "train", count: int = 6) -> Path:
    """The built-in set: images/, and beside it a file for each task."""
    return shapes.ensure(split, seed=4, count=count, cache=folder).root


def located(path: Path, task: str, **settings: Any) -> Any:
    kind = PeopleData if task == "keypoints" else Data
    return own_data.located(kind(path=str(path), **settings), task=task)


def pictures(data: Any, task: str, split: str) -> set[str]:
    dataset = OPEN[task](data, split)
    assert len(dataset[0].image)
    return {dataset.path(index).name for index in range(len(dataset))}


def coco_s(root: Path, made: Path, task: str, name: str) -> Path:
    """annotations/person_keypoints_train2017.json and train2017/, likewise val2017."""
    for split in ("train", "val"):
        own = drawn(root.parent / "drawn", split, 3)
        shutil.copytree(own / "images", root / f"{split}2017")
        text(root / f"annotations/{name}_{split}2017.json", (own / f"{made.stem}.json").read_text())
        text(root / f"annotations/instances_{split}2017.json", (own / "instances.json").read_text())
        if task == "panoptic":
            shutil.copytree(own / "panoptic", root / f"annotations/{name}_{split}2017")
    return root


@pytest.mark.parametrize(
    ("task", "file"), [("panoptic", "panoptic"), ("keypoints", "person_keypoints"), ("scene_graph", "psg")]
)
def test_a_folder_is_taken_for_what_the_package_learns_and_split_by_a_hash(
    task: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = drawn(tmp_path / "own", count=8)
    data = located(root, task)
    said = capsys.readouterr().out
    owner = "PSG" if task == "scene_graph" else "COCO"
    assert f"--data {root}: taken for the {owner} file {file}.json; 0.2 of the pictures validate" in said
    train, val = (pictures(data, task, split) for split in ("train", "val"))
    assert train
    assert val
    assert not train & val
    assert train | val == {path.name for path in (root / "images").iterdir()}
    assert pictures(located(root / f"{file}.json", task), task, "val") == val  # of the file itself


@pytest.mark.parametrize(("task", "file"), [("panoptic", "panoptic"), ("keypoints", "person_keypoints")])
def test_coco_s_own_layout_has_its_own_validation_data(task: str, file: str, tmp_path: Path) -> None:
    data = located(coco_s(tmp_path / "coco", Path(f"{file}.json"), task, file), task)
    for split in ("train", "val"):
        assert pictures(data, task, split) == {path.name for path in (tmp_path / f"coco/{split}2017").iterdir()}


def test_psg_s_own_file_says_what_validates_and_its_pictures_lie_beside_it(tmp_path: Path) -> None:
    made = drawn(tmp_path / "drawn")
    shutil.copytree(made / "images", tmp_path / "data/coco/images")
    shutil.copytree(made / "panoptic", tmp_path / "data/coco/panoptic")
    content = json.loads((made / "psg.json").read_text())
    content["test_image_ids"] = [content["data"][1]["image_id"]]
    text(tmp_path / "data/psg/psg.json", json.dumps(content))
    data = located(tmp_path / "data/psg", "scene_graph")
    assert data.train == data.val
    assert pictures(data, "scene_graph", "val") == {Path(content["data"][1]["file_name"]).name}
    assert len(pictures(data, "scene_graph", "train")) == 5


def test_captions_and_odinw_s_folders_are_taken(tmp_path: Path) -> None:
    made = drawn(tmp_path / "drawn")
    shutil.copytree(made / "images", tmp_path / "flickr30k/flickr30k_images")
    for split in ("train", "val"):
        text(
            tmp_path / f"flickr30k/annotations/final_flickr_separateGT_{split}.json",
            (made / "captions.json").read_text(),
        )
    data = located(tmp_path / "flickr30k", "captions")
    assert isinstance(OPEN["captions"](data, "train"), CaptionedDataset)
    assert pictures(data, "captions", "val") == {path.name for path in (made / "images").iterdir()}
    for split in ("train", "valid", "test"):
        shutil.copytree(made / "images", tmp_path / f"odinw/{split}")
        text(tmp_path / f"odinw/{split}/annotations_without_background.json", (made / "instances.json").read_text())
        text(tmp_path / f"odinw/{split}/_annotations.coco.json", "{}")
    data = located(tmp_path / "odinw", "captions")
    assert data.val.annotations == [str((tmp_path / "odinw/valid/annotations_without_background.json").resolve())]
    split_off = located(made / "captions.json", "captions")
    assert isinstance(OPEN["captions"](split_off, "val"), CaptionedDataset)
    assert not pictures(split_off, "captions", "train") & pictures(split_off, "captions", "val")


def test_what_is_of_another_task_is_refused_with_what_is_wanted(tmp_path: Path) -> None:
    root = drawn(tmp_path / "own", count=2)
    for task, wanted in (("keypoints", "a COCO JSON of people's key points"), ("panoptic", "a COCO panoptic JSON")):
        with pytest.raises(UserError, match=f"nothing in it is understood. What is: {wanted}"):
            located(root / "instances.json", task)
    with pytest.raises(UserError, match=r"--data\.rectangles: nothing looks at it in data of this kind"):
        located(root, "panoptic", rectangles=True)
    (root / "panoptic").rename(root / "maps")
    with pytest.raises(UserError, match="no such folder; the PNGs of"):
        OPEN["panoptic"](located(root, "panoptic"), "train")


@pytest.mark.parametrize(
    ("name", "package", "file"),
    [
        ("upsnet", "upsnet", "panoptic.json"),
        ("pose2seg", "pose2seg", "person_keypoints.json"),
        ("glip", "glip", "captions.json"),
        ("psg", "refinemask_psg", "psg.json"),
    ],
)
def test_training_starts_from_a_path_with_a_plan_that_follows_from_it(
    name: str,
    package: str,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(commands, "train", lambda *given, **_: kept.extend(given) or Run(tmp_path, False))
    root = drawn(tmp_path / "own")
    small = SMALL[name][2].split()
    variant = [] if name == "psg" else ["shapes"]
    words = ["--data", root / file, "--device", "cpu", "--batch-size", 2]
    call(f"{package}.train", *variant, *small, *words, "--data.check", "say")
    config, items, validation = kept[1], kept[4], kept[5]
    assert config.schedule.name == "cosine"
    assert config.data.path == ""
    assert config.data.augment == "light"
    assert config.training.steps > 1000
    assert not {items.dataset.path(at) for at in range(len(items))} & {
        validation.path(at) for at in range(len(validation))
    }
    assert np.isfinite(items[0, 0][0].float().mean())
    said = capsys.readouterr().out
    assert "plan: " in said
    assert "pictures train, with " in said


@pytest.mark.parametrize(
    ("task", "file", "variants", "named"),
    [("panoptic", "panoptic", upsnet.VARIANTS, "shapes"), ("scene_graph", "psg", refinemask_psg.VARIANTS, "psg")],
)
def test_what_would_waste_a_training_on_segments_is_said_before_it(
    task: str, file: str, variants: dict[str, Any], named: str, tmp_path: Path
) -> None:
    root = drawn(tmp_path / "own")
    content = json.loads((root / f"{file}.json").read_text())
    if task == "panoptic":
        content["categories"].append({"id": 99, "name": "unicorn", "isthing": 1})
    else:
        content["stuff_classes"].append("unicorn")
    (root / f"{file}.json").write_text(json.dumps(content))
    data = located(root, task)
    train, val = (counted_segments(each, each is data.val) for each in (data.train, data.val))
    assert sum(train.segments.values()) + sum(val.segments.values()) == sum(
        len(each["segments_info"]) for each in content["annotations" if task == "panoptic" else "data"]
    )
    for path in train.pictures + val.pictures:
        assert path.is_file()
    first = wasted_by(train, val, "segment")[0]
    assert first.startswith("no segment to learn from: of ")
    assert "unicorn; add some" in first
    val.pictures[0].write_bytes(train.pictures[0].read_bytes())
    assert f"{val.pictures[0].name} (as {train.pictures[0].name})" in wasted_by(train, val, "segment")[-1]
    with pytest.raises(UserError, match=r"unicorn; add some.* \| --data\.check say trains all the same"):
        own_data.configured(variants, [named, "--data", str(root)], task=task)
