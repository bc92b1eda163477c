"""Which people count, and where their joints come from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.augment import augmented
from common.data.coco import CocoDataset
from common.errors import UserError
from pose2seg.augmentation import Letterbox
from pose2seg.geometry import letterbox_matrix, moved
from pose2seg.joints import from_results, read_for_files
from pose2seg.people import People, true_joints

SQUARE = [[5, 5, 25, 5, 25, 25, 5, 25]]


def joints(visible: int, x: float = 10.0) -> list[float]:
    """The first so many joints are seen."""
    return [number for at in range(17) for number in ((x + at, 12.0, 2) if at < visible else (0, 0, 0))]


def person(identity: int, image: int, visible: int, **changes: object) -> dict[str, object]:
    entry = {"id": identity, "image_id": image, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
    return entry | {"segmentation": SQUARE, "keypoints": joints(visible), "num_keypoints": visible} | changes


def annotations(people: list[dict[str, object]], images: int = 3) -> dict[str, object]:
    return {
        "images": [{"id": n, "file_name": f"{n:06d}.png", "height": 30, "width": 40} for n in range(1, images + 1)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": ["k"] * 17, "skeleton": []}],
    }


def dataset(folder: Path, people: list[dict[str, object]]) -> CocoDataset:
    for number in (1, 2, 3):
        Image.new("RGB", (40, 30)).save(folder / f"{number:06d}.png")
    (folder / "people.json").write_text(json.dumps(annotations(people)))
    return CocoDataset([folder], [folder / "people.json"])


@pytest.fixture
def crowded(tmp_path) -> CocoDataset:
    """The first image has one who counts among others, the second nobody, the third two."""
    crowd = {"counts": [0, 600, 600], "size": [30, 40]}
    return dataset(
        tmp_path,
        [
            person(1, 1, 0),
            person(2, 1, 5, keypoints=joints(5, x=10.75)),
            person(3, 1, 5, iscrowd=1, segmentation=crowd),
            person(4, 2, 0),
            person(5, 3, 1),
            person(6, 3, 17),
        ],
    )


def test_people_without_joints_and_crowds_are_left_out(crowded):
    people = People(crowded)
    assert len(people) == 2
    assert people.image_ids.tolist() == [1, 3]
    sample = people[0]
    assert sample.masks.shape == (1, 30, 40)
    assert not sample.crowd.any()
    assert len(people[1].boxes) == 2
    assert people.path(1).name == "000003.png"
    assert len(people.polygons(0)) == 1


def test_true_joints_are_those_that_count_without_their_fractions(crowded):
    assert true_joints(crowded, 0)[:, :2, 0].tolist() == [[10, 11]]
    assert true_joints(crowded, 1).shape == (0, 17, 3)
    assert (true_joints(crowded, 2)[..., 2] > 0).sum(axis=1).tolist() == [1, 17]
    assert np.array_equal(People(crowded)[1].keypoints, true_joints(crowded, 2))


def test_data_without_usable_joints_is_refused(tmp_path):
    with pytest.raises(UserError, match="nobody in it has a labelled joint"):
        People(dataset(tmp_path, [person(1, 1, 0)]))
    with pytest.raises(UserError, match="14 keypoints"):
        People(dataset(tmp_path, [person(1, 1, 0, keypoints=[1, 1, 2] * 14)]))
    without = person(1, 1, 3)
    del without["keypoints"]
    with pytest.raises(UserError, match="no keypoints in it"):
        People(dataset(tmp_path, [without]))


def test_the_letterbox_moves_image_joints_and_boxes_but_not_masks(crowded):
    sample = People(crowded)[0]
    sample.image[5:25, 5:25] = 255
    image, target = augmented(sample, Letterbox(64))
    matrix = letterbox_matrix(30, 40, 64)
    assert image.shape == (3, 64, 64)
    corners = moved(torch.tensor([[5.0, 5.0], [25.0, 25.0]]), matrix)
    assert target.boxes[0].tolist() == pytest.approx(corners.flatten().tolist())
    left, top, right, bottom = corners.flatten().round().int().tolist()
    assert image[0, top + 2 : bottom - 2, left + 2 : right - 2].min() == 255
    assert target.masks.shape == (1, 30, 40)
    seen = target.keypoints[0, :5, :2]
    torch.testing.assert_close(seen, moved(torch.from_numpy(sample.keypoints[0, :5, :2]), matrix))


def results(*entries: tuple[int, float, int]) -> str:
    """Image id, score, and how many joints are certain; the others are at a confidence of 0.1."""
    people = []
    for image, score, certain in entries:
        confident = [n for at in range(17) for n in (10.0 + at, 12.0, 0.9 if at < certain else 0.1)]
        people.append({"image_id": image, "category_id": 1, "keypoints": confident, "score": score})
    return json.dumps(people)


def test_results_give_joints_and_scores_by_image(crowded, tmp_path):
    (tmp_path / "found.json").write_text(results((3, 0.5, 4), (1, 0.9, 17), (3, 0.7, 17), (99, 1.0, 17)))
    source = from_results(crowded, tmp_path / "found.json", 0.3)
    first, second, third = source([0, 1, 2], [])
    assert first.scores.tolist() == pytest.approx([0.9])
    assert len(second.joints) == 0
    assert third.scores.tolist() == pytest.approx([0.5, 0.7])
    assert set(third.joints[0, :4, 2].tolist()) == {2}  # found, and so not drawn as hidden
    assert set(third.joints[0, 4:, 2].tolist()) == {0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "expected COCO keypoint results"),
        ('[{"image_id": 1, "keypoints": [1, 2]}]', "entry 0 has 2 keypoint numbers, expected 51"),
        ('[{"keypoints": []}]', "image_id"),
        (results((77, 1.0, 17)), "none of its image ids"),
    ],
)
def test_results_that_do_not_fit_are_refused(crowded, tmp_path, text, message):
    (tmp_path / "found.json").write_text(text)
    with pytest.raises(UserError, match=message):
        from_results(crowded, tmp_path / "found.json", 0.0)
    with pytest.raises(UserError, match="No such file"):
        from_results(crowded, tmp_path / "gone.json", 0.0)


def test_photographs_find_their_people_by_name_or_by_the_number_in_it(tmp_path):
    (tmp_path / "annotated.json").write_text(json.dumps(annotations([person(1, 2, 5), person(2, 2, 0, keypoints=[])])))
    by_name = read_for_files(tmp_path / "annotated.json", 0.0)
    assert len(by_name(Path("elsewhere/000002.png")).joints) == 1
    assert len(by_name(Path("street.jpg")).joints) == 0
    (tmp_path / "found.json").write_text(results((7, 0.5, 17)))
    by_number = read_for_files(tmp_path / "found.json", 0.0)
    assert len(by_number(Path("000000000007.jpg")).joints) == 1
    assert len(by_number(Path("street.jpg")).joints) == 0


def test_annotated_joints_keep_being_hidden_and_found_ones_never_are(tmp_path):
    hidden = [10.0, 12.0, 1.0] * 17
    (tmp_path / "annotated.json").write_text(json.dumps(annotations([person(1, 2, 17, keypoints=hidden)])))
    assert set(read_for_files(tmp_path / "annotated.json", 0.0)(Path("000002.png")).joints[0, :, 2].tolist()) == {1}
    found = annotations([person(1, 2, 17, keypoints=hidden, score=0.8)])
    (tmp_path / "found.json").write_text(json.dumps(found))
    assert set(read_for_files(tmp_path / "found.json", 0.0)(Path("000002.png")).joints[0, :, 2].tolist()) == {2}
