"""A published score and its reproduction, whole: a made-up file is fetched, converted and scored, and a row written."""

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import pytest

from common.errors import UserError
from maskworks import shapes
from maskworks.published.names import Published
from scripts import reproduce
from tests.published.test_weights import as_published, server, small  # noqa: F401
from tests.web import Server

PAGE = "# SOLOv2\n\nSome words.\n"


def scenes(folder: Path) -> dict[str, bytes]:
    """COCO's two archives with two drawn scenes in them, their classes named as COCO's."""
    made = shapes.ensure("val", seed=5, count=2, cache=folder)
    content = json.loads(made.instances.read_text())
    model = small()
    content["categories"] = [
        {"id": number, "name": name} for number, name in zip(model.category_ids, model.class_names, strict=True)
    ]
    packed = {}
    files = {f"val2017/{path.name}": path.read_bytes() for path in made.images.iterdir()}
    inside = {"annotations/instances_val2017.json": json.dumps(content).encode(), "annotations/else.json": b"{}"}
    for name, entries in (("val2017.zip", files), ("annotations_trainval2017.zip", inside)):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as opened:
            for path, data in entries.items():
                opened.writestr(path, data)
        packed[name] = archive.getvalue()
    return packed


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *words])
    reproduce.main()


@pytest.mark.usefixtures("server")
def test_published_and_reproduced_scores_stand_side_by_side(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.files |= scenes(tmp_path / "scenes")
    for constant, name in (("IMAGES", "val2017.zip"), ("ANNOTATIONS", "annotations_trainval2017.zip")):
        digest = f"md5:{hashlib.md5(server.files[name]).hexdigest()}"
        monkeypatch.setattr(reproduce, constant, (server.url(name), digest))
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    run(monkeypatch, "solov2:small", "--device", "cpu")
    said = capsys.readouterr().out.splitlines()
    row = "| `solov2:small` | segm | 29.6 | COCO val2017 | 0.0 | 2 |"
    assert said[-3:] == [
        "| weights | result | published | on | reproduced | on images |",
        "| --- | --- | --- | --- | --- | --- |",
        row,
    ]
    assert page.read_text() == PAGE
    coco = tmp_path / "cache/coco"
    assert sorted(path.name for path in coco.glob("*/*.json")) == ["instances_val2017.json"]
    monkeypatch.setattr(reproduce, "evaluated", lambda *_: {"segm": {"AP": 0.0}})
    for _ in range(2):
        run(monkeypatch, "solov2:small", "--table", "README.md")
    assert len(server.asked) == 3
    assert page.read_text().startswith(PAGE)
    assert page.read_text().splitlines()[-4:] == [said[-2], row, row, reproduce.CLOSING]


@pytest.mark.usefixtures("server")
def test_a_file_that_is_there_takes_the_place_of_the_fetched_one(
    server: Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reproduce, "evaluated", lambda *_: {"segm": {"AP": 0.25}})
    (tmp_path / "mine.json").write_text('{"images": []}')
    (tmp_path / "mine.pth").write_bytes(as_published(small()))
    run(monkeypatch, "solov2:drive", "--weights-file", "mine.pth", "--images", ".", "--annotations", "mine.json")
    assert (tmp_path / "cache/weights/solov2/drive/drive.pth").exists()
    assert not server.asked


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["solov2.safetensors"], "no published weights with a score"),
        (["solov2:small", "--images", "."], "--images and --annotations: name both"),
    ],
)
def test_what_cannot_be_reproduced_is_said(words: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=message):
        run(monkeypatch, *words)


def test_another_data_set_must_be_named() -> None:
    entry = Published("https://example.org/a.pth", "", "", "", "light_r18_448", {"panoptic": 1.0}, "Cityscapes val")
    with pytest.raises(UserError, match="its score is of Cityscapes val; name its --images and --annotations"):
        reproduce.val2017("solov2:small", entry)
