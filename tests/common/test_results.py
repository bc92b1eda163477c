"""Results become COCO JSON, panoptic PNGs and drawings."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as oracle

from common.drawing import Tag, label_colours, paint_mask, paint_tags
from common.errors import UserError
from common.results import Instances, Panoptic, Segment, area, as_png, inner_point
from maskworks.own_data.found import read
from maskworks.prediction.files import instance_map
from refinemask_psg.psg.results import Relation, SceneGraph

GREY = 90


def make_instances(size: tuple[int, int] = (60, 80), image: bool = True) -> Instances:
    """Two rectangles: class 1 with score 0.9, class 0 with score 0.2."""
    height, width = size
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    masks[0, height // 6 : height // 2, width // 4 : width // 2] = True
    masks[1, height // 2 :, width // 2 :] = True
    return Instances(
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([1, 0]),
        boxes=torch.tensor([[20.25, 10.0, 40.5, 30.0], [40.0, 30.0, 80.0, 60.0]]),
        masks=masks,
        size=size,
        class_names=("cat", "dog"),
        image=np.full((height, width, 3), GREY, np.uint8) if image else None,
    )


def empty_instances() -> Instances:
    return Instances(
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.int64),
        boxes=torch.zeros(0, 4),
        masks=torch.zeros(0, 60, 80, dtype=torch.bool),
        size=(60, 80),
        class_names=("cat", "dog"),
        image=np.full((60, 80, 3), GREY, np.uint8),
    )


def changed(drawing: Image.Image) -> NDArray[np.bool_]:
    return np.asarray((np.asarray(drawing) != GREY).any(axis=2))


def test_to_coco_gives_width_and_height_and_the_files_category_ids() -> None:
    entries = make_instances().to_coco(7, [3, 18])
    assert [entry["category_id"] for entry in entries] == [18, 3]
    assert entries[0]["bbox"] == [20.25, 10.0, 20.25, 20.0]
    assert {entry["image_id"] for entry in entries} == {7}
    assert entries[1]["score"] == pytest.approx(0.2)


def test_to_coco_masks_are_what_pycocotools_writes() -> None:
    instances = make_instances()
    assert instances.masks is not None
    for entry, mask in zip(instances.to_coco(1, [1, 2]), instances.masks.numpy(), strict=True):
        expected = oracle.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert entry["segmentation"]["counts"] == expected["counts"].decode()
        assert entry["segmentation"]["size"] == [60, 80]


def test_to_coco_carries_keypoints_flat_and_leaves_out_what_is_missing() -> None:
    instances = make_instances()
    instances.masks = None
    instances.keypoints = torch.arange(12.0).reshape(2, 2, 3)
    entries = instances.to_coco(1, [1, 2])
    assert entries[1]["keypoints"] == [6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
    assert "segmentation" not in entries[0]


def test_labelme_reads_what_to_labelme_writes(tmp_path: Path) -> None:
    """An object in two parts, one that has no pixel left, and boxes alone."""
    found = make_instances()
    assert found.masks is not None
    found.masks[0, 50:, :10] = True
    found.masks[1] = False
    (tmp_path / "a.json").write_text(json.dumps(found.to_labelme("a.png")))
    (tmp_path / "a.png").write_bytes(as_png(Image.fromarray(np.zeros((60, 80, 3), np.uint8))))
    (one,) = read(tmp_path).train.content()["annotations"]
    assert oracle.area(oracle.frPyObjects(one["segmentation"], 60, 80)).tolist() == [10 * 10, 20 * 20]


def test_supervisions_detections_hold_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in shows what they are given, where supervision isn't installed."""
    if find_spec("supervision") is None:
        names = ("xyxy", "mask", "confidence", "class_id")
        make = lambda *values, data: SimpleNamespace(**dict(zip(names, values, strict=True)), data=data)  # noqa: E731
        monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=make))
    found = make_instances()
    given = found.to_supervision()
    assert given.xyxy.tolist() == found.boxes.tolist()
    assert given.mask.tolist() == np.asarray(found.masks).tolist()
    assert (given.class_id.tolist(), given.data["class_name"].tolist()) == ([1, 0], ["dog", "cat"])
    assert given.confidence == pytest.approx([0.9, 0.2])
    assert empty_instances().to_supervision().mask.shape == (0, 60, 80)


def test_no_detections_give_an_empty_list_and_an_untouched_picture() -> None:
    assert empty_instances().to_coco(1, [1, 2]) == []
    assert not changed(empty_instances().draw()).any()


def test_drawing_shows_what_passes_the_threshold_and_nothing_else() -> None:
    instances = make_instances()
    assert instances.masks is not None
    drawn = changed(instances.draw())
    assert drawn[instances.masks[0].numpy()].all()
    assert not drawn[45:, 45:].any()
    assert changed(instances.draw(threshold=0.1))[instances.masks[1].numpy()].all()


def test_drawing_takes_the_given_picture_and_leaves_it_unchanged() -> None:
    picture = np.full((60, 80, 3), 200, np.uint8)
    drawing = np.asarray(make_instances(image=False).draw(picture))
    assert (drawing[59, 0] == 200).all()
    assert (picture == 200).all()


def test_drawing_reads_the_picture_from_its_file(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((60, 80, 3), GREY, np.uint8))
    instances = make_instances()
    expected = np.asarray(instances.draw())
    instances.image = tmp_path / "grey.png"
    assert (np.asarray(instances.draw()) == expected).all()


def test_drawing_without_a_picture_or_with_another_size_says_so() -> None:
    with pytest.raises(UserError, match="no picture"):
        make_instances(image=False).draw()
    with pytest.raises(UserError, match=r"\[30, 80, 3\].*\[60, 80, 3\]"):
        make_instances().draw(np.zeros((30, 80, 3), np.uint8))


def test_an_enlarged_drawing_has_every_mask_at_its_enlarged_place() -> None:
    instances = make_instances()
    assert instances.masks is not None
    drawing = instances.draw(scale=4)
    assert drawing.size == (320, 240)
    inside = instances.masks[0].numpy().repeat(4, axis=0).repeat(4, axis=1)
    assert changed(drawing)[inside].all()
    assert not changed(drawing)[180:, 180:].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (7, 9)])
def test_a_picture_smaller_than_its_labels_can_be_drawn_on(size: tuple[int, int]) -> None:
    instances = make_instances(size)
    assert instances.masks is not None
    instances.masks[:] = True
    assert instances.draw().size == size[::-1]


def test_boxes_out_of_the_picture_and_not_a_number_can_be_drawn() -> None:
    instances = make_instances()
    instances.masks = None
    instances.boxes = torch.tensor([[float("nan"), -1e9, float("inf"), 1e12], [-5.0, -5.0, 500.0, 500.0]])
    assert instances.draw(threshold=0).size == (80, 60)


def test_hidden_keypoints_are_not_drawn() -> None:
    instances = make_instances()
    instances.masks = None
    instances.boxes = torch.zeros(2, 4)
    keypoints = torch.zeros(2, 17, 3)
    keypoints[0, 5] = torch.tensor([30.0, 50.0, 2.0])
    keypoints[0, 6] = torch.tensor([60.0, 50.0, 0.0])
    instances.keypoints = keypoints
    drawn = changed(instances.draw())
    assert drawn[50, 30]
    assert not drawn[50, 40:].any()  # neither the hidden point nor the limb to it


def test_objects_of_one_class_get_different_colours() -> None:
    colours = label_colours([3, 3, 3, 3, 3, 0, 1, 2, 4, 5, 6, 7, 8, 9])
    assert len(set(colours)) == len(colours)
    assert label_colours([3])[0] == colours[0]  # a class keeps its first colour from picture to picture


def test_tags_of_one_place_do_not_hide_each_other() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    paint_tags(picture, [Tag("name", (50, 80, 150, 150), colour) for colour in colours])
    areas = [int((picture == colour).all(axis=2).sum()) for colour in colours]
    assert min(areas) > 0.9 * max(areas)


def test_select_keeps_every_field_aligned() -> None:
    whole = make_instances()
    whole.keypoints, whole.mask_scores = torch.arange(12.0).reshape(2, 2, 3), torch.tensor([0.5, 0.25])
    chosen = whole.select(torch.tensor([False, True]))
    assert len(chosen) == 1
    entry, expected = chosen.to_coco(1, [1, 2])[0], whole.to_coco(1, [1, 2])[1]
    assert entry == expected
    assert entry["mask_score"] == 0.25
    assert "keypoints" in entry
    assert np.array_equal(np.asarray(chosen.draw()), np.asarray(chosen.draw(whole.image)))


def test_the_map_of_instances_has_the_number_of_the_best_at_each_pixel() -> None:
    masks = torch.from_numpy(np.random.RandomState(0).rand(5, 9, 7) > 0.6)
    masks[2] = False
    found = Instances(torch.ones(5), torch.zeros(5), torch.zeros(5, 4), masks, (9, 7), ("cat",))
    best = [[next((n + 1 for n in range(5) if masks[n, y, x]), 0) for x in range(7)] for y in range(9)]
    assert instance_map(found).tolist() == best
    assert instance_map(found.select(torch.zeros(5, dtype=torch.bool))).tolist() == np.zeros((9, 7)).tolist()


def test_the_small_are_painted_over_the_large_however_sure_they_are() -> None:
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[0, 100:300, 100:300] = masks[1, 200:280, 200:280] = True
    boxes = torch.tensor([[100.0, 100, 300, 300], [200, 200, 280, 280]])
    picture = np.full((400, 400, 3), GREY, np.uint8)
    for sure in ([0.9, 0.8], [0.8, 0.9]):
        found = Instances(torch.tensor(sure), torch.tensor([0, 0]), boxes, masks, (400, 400), ("cat",), image=picture)
        colours = label_colours([0, 0])
        if sure[0] < sure[1]:
            colours.reverse()  # the surest of a class has its first colour
        expected = picture.copy()
        for mask, colour in zip(masks.numpy(), colours, strict=True):
            paint_mask(expected, mask, colour)
        assert (np.asarray(found.draw())[150:175, 250:260] == expected[150:175, 250:260]).all()
        assert (np.asarray(found.draw())[250, 250] == expected[250, 250]).all()
        assert (np.asarray(found.draw(with_scores=False)) == expected).all()  # an only class needs no name
        assert (np.asarray(found.draw()) != expected).any()


@pytest.mark.parametrize(
    ("box", "expected"), [([1, 2, 4, 6], 12), ([4, 2, 1, 6], 0), ([1, 6, 4, 2], 0), ([4, 6, 1, 2], 0)]
)
def test_the_area_of_a_box(box: list[float], expected: float) -> None:
    assert area(box) == expected


def test_the_point_farthest_inside() -> None:
    mask = np.zeros((20, 30), bool)
    assert inner_point(mask) is None
    mask[2:7, 3:8] = mask[4, 8:20] = True  # a square with a tail
    assert inner_point(mask) == (5, 4)
    assert inner_point(np.ones((5, 3), bool)) == (1, 1)  # the picture's border is an outline


def make_panoptic() -> Panoptic:
    """Stuff (id 1), two things on it (ids 300 and 70000), and a segment without a pixel (id 5)."""
    segments = torch.ones(60, 80, dtype=torch.int32)
    segments[:4] = 0
    segments[10:30, 5:25] = 300
    segments[40:55, 50:75] = 70000
    infos = [Segment(1, 0, False), Segment(300, 1, True, 0.9), Segment(70000, 1, True, 0.8), Segment(5, 0, False, 0.9)]
    return Panoptic(segments, infos, ("grass", "cow"), (60, 80), np.full((60, 80, 3), GREY, np.uint8))


def test_panoptic_png_holds_the_ids_in_base_256() -> None:
    pixels = np.asarray(make_panoptic().to_png()).astype(np.int64)
    ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
    assert (ids == make_panoptic().segments.numpy()).all()


def test_panoptic_to_coco_lists_the_segments_that_have_pixels() -> None:
    annotation = make_panoptic().to_coco(4, [100, 200], "four.png")
    segments = {segment["id"]: segment for segment in annotation["segments_info"]}
    assert (annotation["image_id"], annotation["file_name"]) == (4, "four.png")
    assert set(segments) == {1, 300, 70000}  # 5 has no pixel: panopticapi would refuse it
    assert segments[300]["area"] == 400
    assert segments[70000]["bbox"] == [50, 40, 25, 15]
    assert [segments[key]["category_id"] for key in (1, 300, 70000)] == [100, 200, 200]
    assert [(each["isthing"], each["iscrowd"]) for each in segments.values()] == [(0, 0), (1, 0), (1, 0)]
    assert len(make_panoptic()) == 4


def test_panoptic_segments_are_told_as_objects() -> None:
    segments = torch.zeros(6, 8, dtype=torch.int32)
    segments[1:3, 2:6], segments[4:] = 9, 300
    infos = [Segment(9, 1, True, 0.7), Segment(5, 1, True), Segment(300, 0, False)]
    found = Panoptic(segments, infos, ("grass", "dog"), (6, 8)).instances()
    assert found.names == ["dog", "grass"]
    assert found.boxes.tolist() == [[2, 1, 6, 3], [0, 4, 8, 6]]
    assert [int(mask.sum()) for mask in found.numpy()["masks"]] == [8, 16]
    assert found.scores.tolist() == pytest.approx([0.7, 1.0])
    assert len(Panoptic(segments * 0, infos, ("grass", "dog"), (6, 8)).instances()) == 0


def test_panoptic_drawing_tints_segments_and_leaves_void_alone() -> None:
    segments = torch.zeros(300, 300, dtype=torch.int32)
    segments[100:] = 1
    picture = np.full((300, 300, 3), GREY, np.uint8)
    panoptic = Panoptic(segments, [Segment(1, 0, False)], ("grass",), (300, 300), picture)
    drawn = changed(panoptic.draw())
    assert not drawn[:98].any()
    assert drawn[100:].all()
    assert not changed(panoptic.draw(threshold=1.1)).any()
    for threshold in (0.3, 1.1):
        shown = panoptic.pictures(picture, threshold)
        assert shown == {"drawings": panoptic.draw(threshold=threshold)}
    assert panoptic.labels_and_scores() == ([0], [1.0])


def make_graph() -> SceneGraph:
    relations = [Relation(1, 2, 1, 0.9), Relation(2, 1, 0, 0.8), Relation(1, 3, 0, 0.7), Relation(0, 1, 0, 0.1)]
    return SceneGraph(make_panoptic(), relations, ("beside", "looking at"))


def test_scene_graph_names_its_segments_and_predicates() -> None:
    graph = make_graph().to_json()
    first = graph["relations"][0]
    assert first == {"subject": 1, "object": 2, "predicate": 1, "name": "looking at", "score": 0.9}
    assert [segment["name"] for segment in graph["segments"]] == ["grass", "cow", "cow", "grass"]
    assert len(graph["relations"]) == 4


def test_scene_graph_drawing_adds_arrows_for_the_best_relations() -> None:
    graph = make_graph()  # one of its relations leads to a segment without a pixel: no arrow
    plain = np.asarray(graph.draw(threshold=0.99))
    arrows = np.asarray(graph.draw())
    middle = arrows[20:50, 25:50]  # between the two cows
    assert (middle != plain[20:50, 25:50]).any()
    assert (np.asarray(graph.draw(limit=1)) != arrows).any()
