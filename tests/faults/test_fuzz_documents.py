"""Annotation files of every kind with something wrong in them: read rightly or refused in a line."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data.coco import CocoDataset
from common.metrics import evaluate_coco
from glip.captioned_data import CaptionedDataset
from pose2seg.joints import read_for_files
from refinemask_psg.psg.data import PsgDataset
from tests.common.coco_example import HEIGHT, WIDTH, annotation, content
from tests.faults.mutation import answer, fuzz, mutated
from tests.refinemask_psg.test_psg_files import entry as psg_entry
from tests.refinemask_psg.test_psg_files import psg
from tests.refinemask_psg.test_psg_files import write as write_psg
from upsnet.panoptic_data import PanopticDataset

KEYPOINTS = [float(number) for joint in range(17) for number in (joint, joint, 2)]


def instances() -> dict[str, Any]:
    data = content()
    data["annotations"].append(annotation(11, category=17, keypoints=KEYPOINTS, num_keypoints=17))
    return data


def captions() -> dict[str, Any]:
    data = content()
    for image in data["images"]:
        image["caption"] = "a cat and a person"
    for each in data["annotations"]:
        each["tokens_positive"] = [[0, 5]]
    return data


def detections() -> list[dict[str, Any]]:
    found = [{key: each[key] for key in ("image_id", "category_id", "bbox")} for each in instances()["annotations"]]
    codes = [each["segmentation"] for each in content()["annotations"] if isinstance(each["segmentation"], dict)]
    return [each | {"score": 0.5, "segmentation": codes[-1], "keypoints": KEYPOINTS} for each in found]


def panoptic() -> dict[str, Any]:
    segments = [{"id": 1, "category_id": 3, "area": 40, "iscrowd": 0, "bbox": [0, 0, 5, 8]}]
    segments += [{"id": 2, "category_id": 17, "area": HEIGHT * WIDTH - 40, "iscrowd": 0, "bbox": [0, 0, 32, 24]}]
    names = {5: "a.png", 2: "deep/b.png"}
    return {
        "images": [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in names.items()],
        "annotations": [{"image_id": i, "file_name": "s.png", "segments_info": segments} for i in names],
        "categories": [{"id": 3, "name": "cat", "isthing": 1}, {"id": 17, "name": "sky", "isthing": 0}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("a.png", "deep/b.png", "c.png"):
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / name), pixels)
    segments = np.full((HEIGHT, WIDTH, 3), (0, 0, 2), np.uint8)  # blue, green, red
    segments[:8, :5, 2] = 1
    (folder / "panoptic").mkdir()
    cv2.imwrite(str(folder / "panoptic" / "s.png"), segments)
    return folder


def read_all(dataset: Any) -> None:
    """Every image with its ground truth, as training and evaluation ask for it."""
    for index in range(len(dataset)):
        sample = answer(lambda index=index: dataset[index])
        if sample is not None:
            assert sample.masks.shape == (len(sample.boxes), *sample.image.shape[:2])
            assert np.isfinite(sample.boxes).all()
            assert (sample.labels >= 0).all()
            assert (sample.labels < len(dataset.class_names)).all()
        answer(lambda index=index: dataset.polygons(index))


def read_instances(images: Path, file: Path, keep_empty: bool = True) -> None:
    dataset = answer(lambda: CocoDataset([images], [file], keep_empty=keep_empty))
    if dataset is not None:
        read_all(dataset)
        truth = answer(dataset.annotations_json)
        if truth is not None:
            json.dumps(truth)


@fuzz(200)
@given(data=mutated(instances()), keep_empty=st.booleans())
def test_instances(folder: Path, data: Any, keep_empty: bool) -> None:
    (folder / "instances.json").write_text(json.dumps(data))
    read_instances(folder / "images", folder / "instances.json", keep_empty)


@fuzz(100)
@given(data=st.data())
def test_bytes_that_were_json_once(folder: Path, data: st.DataObject) -> None:
    text = bytearray(json.dumps(instances()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at, end = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        text[at : at + end] = data.draw(
            st.sampled_from([b"", b"NaN", b"{", b"]", b"\xff", b"\0"]) | st.binary(max_size=4)
        )
    (folder / "bytes.json").write_bytes(text)
    read_instances(folder / "images", folder / "bytes.json")


@fuzz(60)
@given(data=mutated(captions()))
def test_captions(folder: Path, data: Any) -> None:
    (folder / "captions.json").write_text(json.dumps(data))
    dataset = answer(lambda: CaptionedDataset([folder / "images"], [folder / "captions.json"]))
    for index in range(len(dataset) if dataset else 0):
        answer(lambda index=index: dataset[index])
        answer(lambda index=index: dataset.caption(index))


@fuzz(100)
@given(data=mutated(panoptic()))
def test_panoptic(folder: Path, data: Any) -> None:
    (folder / "panoptic.json").write_text(json.dumps(data))
    dataset = answer(lambda: PanopticDataset([folder / "images"], [folder / "panoptic.json"]))
    if dataset is not None:
        read_all(dataset)


@fuzz(100)
@given(data=mutated(psg(psg_entry(7), psg_entry(8), test=[8])))
def test_scene_graphs(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "psg.json"
    if not path.exists():
        write_psg(tmp_path, psg(psg_entry(7), psg_entry(8)))
    path.write_text(json.dumps(data))
    dataset = answer(lambda: PsgDataset([tmp_path], [path], "train"))
    for index in range(len(dataset) if dataset else 0):
        answer(lambda index=index: dataset[index])


@fuzz(60)
@given(data=mutated(instances()), results=mutated(detections()), which=st.sampled_from(["truth", "results"]))
def test_joints_of_files(folder: Path, data: Any, results: Any, which: str) -> None:
    (folder / "joints.json").write_text(json.dumps(data if which == "truth" else results))
    find = answer(lambda: read_for_files(folder / "joints.json", 0.0))
    if find is not None:
        for name in ("a.png", "deep/b.png", "000000000005.jpg"):
            answer(lambda name=name: find(folder / "images" / name))


@fuzz(120)
@given(data=st.data(), kind=st.sampled_from(["segm", "bbox", "keypoints"]))
@pytest.mark.filterwarnings("ignore")
def test_what_is_scored(data: st.DataObject, kind: Any) -> None:
    wrong = data.draw(st.sampled_from(["truth", "results", "both"]))
    truth = data.draw(mutated(instances(), most=2)) if wrong != "results" else instances()
    found = data.draw(mutated(detections(), most=2)) if wrong != "truth" else detections()
    scores = answer(lambda: evaluate_coco(truth, found, kind))
    if scores is not None:
        assert all(score == -1 or 0 <= score <= 1 for score in scores.values())
