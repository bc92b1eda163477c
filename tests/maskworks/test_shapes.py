"""The built-in dataset: the same everywhere; five kinds of annotations that agree with the pixels."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from common.errors import UserError
from common.run.settings import Data, Images
from maskworks.shapes import dataset as shapes
from maskworks.shapes.dataset import ShapesFolder, ensure, fill_in, write
from maskworks.shapes.figures import HELD_OUT, Split
from maskworks.shapes.scenes import draw_scene
from tests.running import python

COUNT = 60


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module", params=["train", "val"])
def folder(request: pytest.FixtureRequest, cache: Path) -> ShapesFolder:
    return ensure(request.param, count=COUNT, cache=cache)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def contents(folder: ShapesFolder) -> dict[str, bytes]:
    files = (path for path in sorted(folder.root.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder.root)): path.read_bytes() for path in files}


def segment_ids(path: Path) -> np.ndarray:
    """[H, W] ids R + 256 G + 65536 B of a panoptic PNG."""
    blue, green, red = np.moveaxis(cv2.imread(str(path)).astype(np.int64), -1, 0)
    return red + 256 * green + 65536 * blue


def is_shown(mask: np.ndarray, x: int, y: int) -> bool:
    return 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and bool(mask[y, x])


# --- determinism, seeds, splits ---


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (contents(write(tmp_path / name, "train", 7, 4)) for name in "ab")
    assert len(first) == 2 * 4 + 5
    assert first == second


def test_images_on_disk_hold_the_drawn_pixels(folder: ShapesFolder) -> None:
    split: Split = "train" if folder.root.name.startswith("train") else "val"
    for index, image in enumerate(read(folder.instances)["images"][:5]):
        pixels = cv2.imread(str(folder.images / image["file_name"]))[:, :, ::-1]
        np.testing.assert_array_equal(pixels, draw_scene(0, split, index).image)
        assert pixels.shape == (image["height"], image["width"], 3)


# --- the cache ---


def test_processes_asking_at_once_get_one_complete_folder(tmp_path: Path) -> None:
    ask = "import sys; from pathlib import Path; from maskworks.shapes.dataset import ensure\n"
    (tmp_path / "ask.py").write_text(ask + "print(ensure('val', 3, 6, Path(sys.argv[1])).root)\n")
    done = python(tmp_path / "ask.py", tmp_path / "cache", cwd=tmp_path, processes=2)
    assert len(done.stdout.splitlines()) == 2
    (root,) = map(Path, set(done.stdout.splitlines()))
    assert list(root.parent.iterdir()) == [root]
    assert len(contents(ShapesFolder(root))) == 2 * 6 + 5


def test_who_loses_the_race_takes_the_winners_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "split"
    real = shapes._annotation_files

    def outrun(*arguments: Any) -> dict[Path, Any]:
        if not root.exists():
            root.mkdir()
            (root / "winner").touch()
        return real(*arguments)

    monkeypatch.setattr(shapes, "_annotation_files", outrun)
    assert write(root, "train", 0, 1).root == root
    assert [path.name for path in tmp_path.rglob("*")] == ["split", "winner"]


def test_a_complete_folder_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure("train", count=2, cache=tmp_path)
    monkeypatch.setattr(shapes, "draw_scene", None)
    assert ensure("train", count=2, cache=tmp_path) == first
    with pytest.raises(TypeError):
        ensure("train", count=3, cache=tmp_path)


def test_nothing_is_left_of_an_interrupted_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seed: int, split: Split, index: int) -> Any:
        if index == 1:
            raise KeyboardInterrupt
        return draw_scene(seed, split, index)

    monkeypatch.setattr(shapes, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ensure("train", count=2, cache=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.name != shapes.FORMAT]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="these have their own places")
def test_the_default_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert ensure("val", 5, 1).root == tmp_path / "maskworks" / shapes.FORMAT / "val-seed5-1"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(("test", 0, 1), "'test'"), (("train", -1, 1), "seed"), (("train", 2**32, 1), "seed"), (("val", 0, 0), "images")],
)
def test_bad_requests_are_refused(arguments: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        ensure(*arguments, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        ensure("train", count=1, cache=tmp_path / "file")


@pytest.mark.parametrize("folder", [".", "solov2", "refinemask_psg/u2net"])
def test_the_data_sets_of_a_clone_are_found_from_a_packages_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "datasets" / "coco").mkdir(parents=True)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    data = Data(train=Images(["datasets/coco"], ["mine/train.json"]), val=Images(["mine"], ["datasets/psg/psg.json"]))
    found = fill_in(data, "train", "val")
    assert Path(found.train.images[0]).resolve() == tmp_path / "datasets" / "coco"
    assert Path(found.val.annotations[0]).resolve() == tmp_path / "datasets" / "psg" / "psg.json"
    assert (found.train.annotations, found.val.images) == (["mine/train.json"], ["mine"])
    assert data.train.images == ["datasets/coco"]  # what a checkpoint of the run will say


def test_the_command_writes_a_new_folder_only(tmp_path: Path) -> None:
    command = ["-m", "maskworks.shapes", "--out", tmp_path / "new", "--count", 2, "--seed", 3]
    python(*command, cwd=tmp_path)
    assert len(contents(ShapesFolder(tmp_path / "new"))) == 2 * 2 + 5
    again = python(*command, cwd=tmp_path, status=2)
    assert again.stderr.count("\n") == 1
    assert "new: exists already" in again.stderr


# --- the files ---


def test_every_kind_of_difficulty_is_there(folder: ShapesFolder) -> None:
    content = read(folder.instances)
    annotations = content["annotations"]
    with_things = {annotation["image_id"] for annotation in annotations}
    assert 1 <= COUNT - len(with_things) <= COUNT // 4
    assert any(annotation["iscrowd"] for annotation in annotations)
    assert {annotation["category_id"] for annotation in annotations} == {c["id"] for c in content["categories"]}
    sides = np.sqrt([annotation["area"] for annotation in annotations])
    assert (sides < 20).any()
    assert (sides > 60).any()
    kinds = {type(a["segmentation"] if a["iscrowd"] == 0 else a["segmentation"]["counts"]) for a in annotations}
    assert kinds == {list, dict}
    assert any(len(a["segmentation"]) > 1 for a in annotations if isinstance(a["segmentation"], list))
    assert [annotation["id"] for annotation in annotations] == list(range(1, len(annotations) + 1))


def test_instances_are_the_panoptic_segments_in_pycocotools_eyes(folder: ShapesFolder) -> None:
    coco, panoptic = COCO(str(folder.instances)), read(folder.panoptic)
    isthing = {category["id"]: category["isthing"] for category in panoptic["categories"]}
    for entry in panoptic["annotations"]:
        ids = segment_ids(folder.panoptic_folder / entry["file_name"])
        assert set(np.unique(ids)) == {info["id"] for info in entry["segments_info"]}
        for info in entry["segments_info"]:
            mask = ids == info["id"]
            assert info["area"] == mask.sum()
            assert info["bbox"] == coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist()
        things = [info for info in entry["segments_info"] if isthing[info["category_id"]]]
        annotations = coco.loadAnns(coco.getAnnIds(entry["image_id"]))
        for annotation, info in zip(annotations, things, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation) > 0, ids == info["id"])
            for key in ("area", "bbox", "iscrowd", "category_id"):
                assert annotation[key] == info[key]


def test_keypoints_lie_on_the_person_exactly_where_they_are_seen(folder: ShapesFolder) -> None:
    coco, instances = COCO(str(folder.keypoints)), {a["id"]: a for a in read(folder.instances)["annotations"]}
    (category,) = coco.cats.values()
    assert len(category["keypoints"]) == 17
    assert {category["keypoints"][end - 1] for bone in category["skeleton"] for end in bone} == set(
        category["keypoints"]
    )
    seen = np.zeros(3, int)
    for annotation in coco.anns.values():
        assert {key: annotation[key] for key in instances[annotation["id"]]} == instances[annotation["id"]]
        keypoints = np.array(annotation["keypoints"]).reshape(17, 3)
        assert annotation["num_keypoints"] == (keypoints[:, 2] > 0).sum()
        assert not keypoints[keypoints[:, 2] == 0].any()
        mask = coco.annToMask(annotation) > 0
        for x, y, visibility in keypoints[keypoints[:, 2] > 0].tolist():
            assert is_shown(mask, x, y) == (visibility == 2)
        seen += np.bincount(keypoints[:, 2], minlength=3) * (not annotation["iscrowd"])
    assert (seen > 0).all()
    people = [a["id"] for a in instances.values() if a["category_id"] == category["id"]]
    assert people == list(coco.anns)


def test_scene_graph_entries_describe_the_panoptic_segments(folder: ShapesFolder) -> None:
    graphs, panoptic = read(folder.scene_graph), read(folder.panoptic)
    names = {category["id"]: category["name"] for category in panoptic["categories"]}
    classes = graphs["thing_classes"] + graphs["stuff_classes"]
    assert classes == list(names.values())
    for entry, annotation in zip(graphs["data"], panoptic["annotations"], strict=True):
        assert int(entry["image_id"]) == annotation["image_id"]
        assert (folder.root / entry["file_name"]).is_file()
        assert (folder.root / entry["pan_seg_file_name"]).is_file()
        for mine, box, info in zip(
            entry["segments_info"], entry["annotations"], annotation["segments_info"], strict=True
        ):
            assert (mine["id"], mine["area"], mine["iscrowd"]) == (info["id"], info["area"], info["iscrowd"])
            assert classes[mine["category_id"]] == classes[box["category_id"]] == names[info["category_id"]]
            assert mine["isthing"] == (mine["category_id"] < len(graphs["thing_classes"]))
            x, y, width, height = info["bbox"]
            assert box["bbox"] == [x, y, x + width, y + height]
        crowds = [mine["isthing"] * (1 - mine["iscrowd"]) for mine in entry["segments_info"]]
        assert crowds == sorted(crowds, reverse=True)  # things that are not crowds come first
    expected = {entry["image_id"] for entry in graphs["data"]} if folder.root.name.startswith("val") else set()
    assert set(graphs["test_image_ids"]) == expected


def relation_holds(predicate: str, subject: np.ndarray, other: np.ndarray, order: bool) -> bool:
    """From the two masks of what is seen, and whether the subject comes later than the object."""
    (sy, sx), (oy, ox) = np.nonzero(subject), np.nonzero(other)
    near = cv2.dilate(subject.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    checks = {
        "left of": sx.max() < ox.min(),
        "right of": sx.min() > ox.max(),
        "above": sy.max() < oy.min(),
        "below": sy.min() > oy.max(),
        "in front of": order and bool((near & other).any()),
        "inside": order and sx.min() > ox.min() and sx.max() < ox.max() and sy.min() > oy.min() and sy.max() < oy.max(),
        "bigger than": len(sx) >= 3 * len(ox),
    }
    # "on", "standing on", "in": the object is seen within 3 pixels of the subject's box
    beside = np.zeros_like(subject)
    beside[max(sy.min() - 3, 0) : sy.max() + 4, max(sx.min() - 3, 0) : sx.max() + 4] = True
    return bool(checks.get(predicate, (beside & other).any()))


def test_relations_hold_in_the_pixels(folder: ShapesFolder) -> None:
    graphs = read(folder.scene_graph)
    found = set()
    for entry in graphs["data"]:
        ids = segment_ids(folder.root / entry["pan_seg_file_name"])
        segments = entry["segments_info"]
        masks = [ids == segment["id"] for segment in segments]
        assert len({tuple(relation) for relation in entry["relations"]}) == len(entry["relations"])
        for subject, other, number in entry["relations"]:
            predicate = graphs["predicate_classes"][number]
            found.add(predicate)
            assert subject != other
            assert segments[subject]["isthing"]
            assert not segments[subject]["iscrowd"] | segments[other]["iscrowd"]
            assert segments[other]["isthing"] == (predicate not in ("on", "standing on", "in"))
            assert relation_holds(predicate, masks[subject], masks[other], subject > other), (
                entry["image_id"],
                predicate,
            )
            if predicate == "standing on":
                assert graphs["thing_classes"][segments[subject]["category_id"]] == "person"
    assert found == set(graphs["predicate_classes"])


def test_caption_spans_cut_out_what_names_the_box(folder: ShapesFolder) -> None:
    content = read(folder.captions)
    names = {category["id"]: category["name"] for category in content["categories"]}
    captions = {image["id"]: image["caption"] for image in content["images"]}
    instances = {a["id"]: a for a in read(folder.instances)["annotations"] if not a["iscrowd"]}
    assert {annotation["id"] for annotation in content["annotations"]} == set(instances)
    plural = 0
    for annotation in content["annotations"]:
        ((start, end),) = annotation["tokens_positive"]
        caption, name, colour = (
            captions[annotation["image_id"]],
            names[annotation["category_id"]],
            annotation["colour"],
        )
        one, many = f"{colour} {name}", f"{colour} {'crosses' if name == 'cross' else name + 's'}"
        if name == "person":
            one, many = f"person in {colour}", f"people in {colour}"
        assert caption[start:end] in (one, many)
        plural += caption[start:end] == many
        article = caption[:start].split()[-1]
        assert article in (("a", "an") if caption[start:end] == one else ("two", "three", "four", "five"))
        for key in ("bbox", "area", "category_id", "image_id"):
            assert annotation[key] == instances[annotation["id"]][key]
    assert plural
    for image in content["images"]:
        spans = {tuple(a["tokens_positive"][0]) for a in content["annotations"] if a["image_id"] == image["id"]}
        assert {tuple(span) for (span,) in image["tokens_positive_eval"]} == spans
        assert image["caption"]


def test_held_out_pairs_are_marked_and_only_in_validation(folder: ShapesFolder) -> None:
    content = read(folder.captions)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for annotation in content["annotations"]:
        assert annotation["held_out"] == ((annotation["colour"], names[annotation["category_id"]]) in HELD_OUT)
    marked = sum(annotation["held_out"] for annotation in content["annotations"])
    assert marked > 5 if folder.root.name.startswith("val") else marked == 0
