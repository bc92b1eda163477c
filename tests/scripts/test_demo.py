"""The demo page: what it offers, answers and refuses, without the toolkit; and once with it, where it is installed."""

import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from common.ops import masks as rle
from common.results import Instances, Panoptic, Segment
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.packages import NETWORKS
from refinemask_psg.psg.results import Relation, SceneGraph
from scripts.demo import Demo, Studio, as_json, find_weights, package_of, serve, shown, summary
from tests.running import call

NAMES = ("red circle", "square")


def checkpoint(path: Path, package: str) -> Path:
    """A small made-up checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    module = import_module(package)
    config = deepcopy(module.VARIANTS["shapes"])
    if package == "solov2":  # untrained, it is sure of nothing
        config.test.score_threshold, config.test.update_threshold, config.test.max_candidates = 0.0, 0.0, 20
    torch.manual_seed(0)
    model = getattr(module, NETWORKS[package])(config, NAMES)
    save(path, Checkpoint(package, to_dict(config), NAMES, (7, 9), model.state_dict()))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    checkpoint(folder / "solov2/shapes/best.safetensors", "solov2")
    checkpoint(folder / "glip.safetensors", "glip")
    (folder / "broken.safetensors").write_bytes(b"no tensors")
    return folder


@pytest.fixture
def studio(runs: Path, tmp_path: Path) -> Iterator[Studio]:
    (tmp_path / "found").mkdir()
    return Studio(Demo((runs,), threshold=0.0, device="cpu"), find_weights([runs]), tmp_path / "found")


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    path = tmp_path / "street.jpg"
    cv2.imwrite(str(path), np.random.RandomState(0).randint(0, 255, (60, 80, 3)).astype(np.uint8))
    return str(path)


def test_checkpoints_are_offered_by_package_and_other_files_are_not(runs: Path, tmp_path: Path) -> None:
    assert find_weights([runs]) == {
        "glip": [str(runs / "glip.safetensors")],
        "solov2": [str(runs / "solov2/shapes/best.safetensors")],
    }
    assert find_weights([runs / "glip.safetensors", runs]).keys() == {"glip", "solov2"}
    assert package_of(runs / "broken.safetensors") == ""
    save(tmp_path / "foreign.safetensors", Checkpoint("os", {}, (), (), {"weight": torch.zeros(1)}))
    assert package_of(tmp_path / "foreign.safetensors") == ""  # no module is imported because a file names it
    with pytest.raises(UserError, match="no checkpoint of ours in"):
        find_weights([tmp_path])
    with pytest.raises(UserError, match="no such checkpoint or folder"):
        find_weights([tmp_path / "nowhere"])


def test_an_upload_is_answered_with_a_drawing_and_all_that_was_found(studio: Studio, photograph: str) -> None:
    (weights,) = studio.offered["solov2"]
    drawing, content, line = studio.answer(weights, photograph, "")
    assert Image.open(drawing).size == (480, 360)  # enlarged, or names would hide what they name
    found = json.loads(content.read_text())
    assert found["images"] == [{"id": 1, "file_name": "street.jpg", "height": 60, "width": 80}]
    assert found["categories"] == [{"id": 7, "name": "red circle"}, {"id": 9, "name": "square"}]
    assert len(found["annotations"]) > 0
    assert rle.decode([found["annotations"][0]["segmentation"]]).shape == (1, 60, 80)
    counts = [int(part.split()[0]) for part in line.split(", ")]
    assert sum(counts) == len(found["annotations"])
    again, _, _ = studio.answer(weights, photograph, "")
    assert again != drawing  # what was found before stays to be downloaded


def test_a_prompt_says_what_glip_looks_for(studio: Studio, photograph: str, tmp_path: Path) -> None:
    (weights,) = studio.offered["glip"]
    _, content, _ = studio.answer(weights, photograph, "blue star. green ring. heart")
    names = [category["name"] for category in json.loads(content.read_text())["categories"]]
    assert names == ["blue star", "green ring", "heart"]
    _, content, _ = studio.answer(weights, photograph, "  ")
    assert [each["name"] for each in json.loads(content.read_text())["categories"]] == list(NAMES)
    (tmp_path / "names.txt").write_text("secret one\nsecret two\n")
    _, content, line = studio.answer(weights, photograph, str(tmp_path / "names.txt"))
    assert "secret" not in content.read_text() + line  # a prompt from the page never opens a file


def test_one_model_is_in_memory_and_loaded_once(studio: Studio, photograph: str) -> None:
    first = studio.load(studio.offered["solov2"][0])
    assert studio.load(studio.offered["solov2"][0]) is first
    second = studio.load(studio.offered["glip"][0])
    assert studio.loaded == (studio.offered["glip"][0], second)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("text.jpg", b"no picture at all", "not an image"),
        ("cut.jpg", None, "truncated"),
        ("large.png", "large", "3000 x 2000 = 6000000 pixels, the limit is 5000000"),
        ("heavy.bmp", "heavy", "MB, the limit is 1 MB"),
    ],
)
def test_a_bad_upload_is_one_line_on_the_page(
    studio: Studio, tmp_path: Path, photograph: str, name: str, content: Any, problem: str
) -> None:
    path = tmp_path / name
    if content == "large":
        cv2.imwrite(str(path), np.zeros((2000, 3000, 3), np.uint8))
    elif content == "heavy":
        cv2.imwrite(str(path), np.zeros((700, 700, 3), np.uint8))
    else:
        path.write_bytes(content or Path(photograph).read_bytes()[:400])
    studio.options = Demo(max_megabytes=1, max_megapixels=5)
    picture, files, line = shown(studio)(studio.offered["solov2"][0], str(path), "")
    assert (picture, files) == (None, None)
    assert line.startswith(f"{name}: ")
    assert problem in line
    assert "\n" not in line
    assert str(tmp_path) not in line


def test_what_is_not_offered_or_missing_is_refused(studio: Studio, runs: Path, photograph: str) -> None:
    answer = shown(studio)
    assert answer(str(runs / "broken.safetensors"), photograph, "")[2] == "choose a checkpoint from the list"
    assert answer("/etc/passwd", photograph, "")[2] == "choose a checkpoint from the list"
    assert answer(studio.offered["solov2"][0], None, "")[2] == "upload a photograph first"
    assert "the limit is 2000" in answer(studio.offered["glip"][0], photograph, "a" * 3000)[2]


def test_pose2seg_says_what_it_needs(tmp_path: Path, photograph: str) -> None:
    weights = checkpoint(tmp_path / "people.safetensors", "pose2seg")
    studio = Studio(Demo((weights,)), find_weights([weights]), tmp_path)
    assert "--detector" in shown(studio)(str(weights), photograph, "")[2]


def test_segments_and_relations_are_written_too() -> None:
    ids = torch.ones(4, 6, dtype=torch.int32)
    ids[:, 3:] = 2
    panoptic = Panoptic(ids, [Segment(1, 0, True, 0.9), Segment(2, 1, False, 0.8)], NAMES, (4, 6))
    graph = SceneGraph(panoptic, [Relation(0, 1, 0, 0.7)], ("beside",))
    content = as_json(graph, (7, 9), "a.jpg")
    (entry,) = content["annotations"]
    masks = rle.decode([info["segmentation"] for info in entry["segments_info"]])
    assert masks.sum(axis=(1, 2)).tolist() == [12, 12]
    assert [info["category_id"] for info in entry["segments_info"]] == [7, 9]
    assert [relation["name"] for relation in entry["relations"]] == ["beside"]
    assert summary(graph, 0.3) == "1 red circle, 1 square; 1 relations"
    assert json.loads(json.dumps(content)) == content


def test_objects_are_counted_by_class_from_the_threshold() -> None:
    result = Instances(torch.tensor([0.9, 0.4, 0.2]), torch.tensor([1, 1, 0]), torch.zeros(3, 4), None, (4, 6), NAMES)
    assert summary(result, 0.3) == "2 square"
    assert summary(result, 0.95) == "nothing with a score of 0.95 or more"


def test_only_this_computer_can_open_the_page_unless_it_is_said() -> None:
    assert Demo().host == "127.0.0.1"


def test_without_the_toolkit_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError) as caught:
        call("scripts.demo")
    assert str(caught.value) == "the page needs gradio, which is not installed: pip install 'gradio>=6,<7'"


def test_the_page_answers_over_the_network(studio: Studio, photograph: str, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    client = pytest.importorskip("gradio_client")
    studio.options = Demo(port=0, max_megabytes=1, threshold=0.0, device="cpu")
    page = serve(studio, wait=False)
    try:
        assert page.local_url.startswith("http://127.0.0.1:")
        visitor = client.Client(page.local_url, verbose=False, download_files=str(tmp_path / "got"))
        (weights,) = studio.offered["solov2"]
        picture, files, line = visitor.predict(weights, client.handle_file(photograph), "", api_name="/find")
        assert Image.open(picture).size == (480, 360)
        assert [Path(file).suffix for file in files] == [".png", ".json"]
        assert "circle" in line
        _, _, line = visitor.predict(weights, None, "", api_name="/find")
        assert line == "upload a photograph first"
        heavy = tmp_path / "heavy.bmp"
        cv2.imwrite(str(heavy), np.zeros((1000, 1000, 3), np.uint8))
        with pytest.raises(Exception, match=r"(?i)size|413|large"):
            visitor.predict(weights, client.handle_file(str(heavy)), "", api_name="/find")
    finally:
        page.close()
