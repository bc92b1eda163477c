"""Data sets in shards: the same pictures, batches and weights as from loose files; torn ones are named in a line."""

import hashlib
import json
import multiprocessing
import os
import signal
import sqlite3
import tarfile
from dataclasses import astuple, replace
from importlib import import_module
from pathlib import Path

import fsspec
import msgspec
import numpy as np
import pytest

from common.data import shards
from common.data.coco import CocoDataset, LabelledImages
from common.data.images import image_size, read_image
from common.errors import UserError
from common.run.checkpoint import load
from common.run.settings import Data, Images, Training
from glip.captioned_data import open_data
from maskworks import shapes
from maskworks.picture_kinds import described
from maskworks.shards import fetching, writing
from maskworks.shards.at_hand import at_hand
from pose2seg.people import open_people
from refinemask_psg.psg.data import PsgDataset, read_prepared
from refinemask_psg.u2net.config import SaliencyData
from refinemask_psg.u2net.data import open_saliency
from tests.common.test_training import EXACT, SMALL, wait_for_step
from tests.running import logged_steps, python, start
from tests.running import run as run_script
from upsnet.panoptic_data import PanopticDataset, open_panoptic


@pytest.fixture(scope="module")
def loose(tmp_path_factory) -> shapes.ShapesFolder:
    return shapes.ensure("train", seed=3, count=10, cache=tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def tars(loose, tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("shards") / "train"
    words = ["--annotations", loose.instances, "--out", target, "--megabytes", 0.05]
    run_script("scripts/shard_dataset.py", loose.images, *words, cwd=target.parent)
    assert len(list(target.glob("*.tar"))) > 2
    return target


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKWORKS_SHARDS_GIGABYTES", "0")  # nothing is copied but what a test copies itself
    return tmp_path / "cache" / "shards"


def found_here(url: str) -> Path:
    return Path(at_hand(Data(train=Images([url]))).train.images[0])


def test_any_tar_program_reads_the_shards(loose, tars):
    inside = {}
    for tar in sorted(tars.glob("*.tar")):
        with tarfile.open(tar) as archive:
            inside |= {member.name: archive.extractfile(member).read() for member in archive}
    assert inside == {file.name: file.read_bytes() for file in loose.images.iterdir()}
    assert (tars / "instances.json").read_bytes() == loose.instances.read_bytes()


def test_the_same_data_set_gives_the_same_shards(loose, tars, tmp_path):
    writing.write(loose.images, [loose.instances], str(tmp_path), 0.05)
    for tar in tars.glob("*.tar"):
        assert (tmp_path / tar.name).read_bytes() == tar.read_bytes()


def test_a_picture_is_read_as_its_file_is(loose, tars):
    for file in loose.images.iterdir():
        assert (read_image(tars / file.name) == read_image(file)).all()
        assert image_size(tars / file.name) == image_size(file)
    with pytest.raises(UserError, match="no such image"):
        read_image(tars / "none.png")


def test_pictures_of_subfolders_are_found_by_their_whole_name(loose, tmp_path):
    content = json.loads(loose.instances.read_text())
    for number, image in enumerate(content["images"]):
        name = f"{'ab'[number % 2]}/c/{number}.png"
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes((loose.images / image["file_name"]).read_bytes())
        image["file_name"] = name
    file = tmp_path / "all.json"
    file.write_text(json.dumps(content))
    writing.write(tmp_path / "in", [file], str(tmp_path / "out"), 1)
    data = CocoDataset([tmp_path / "out"], [file])
    assert all((data.image(i) == CocoDataset([tmp_path / "in"], [file]).image(i)).all() for i in range(len(data)))
    content["images"][3]["file_name"] = "b/3.png"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"image 4.*there is no such file"):
        CocoDataset([tmp_path / "out"], [file])


def test_an_index_leads_nowhere_outside(loose, tars, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(next(loose.images.iterdir()).read_bytes())
    target = tmp_path / "shards"
    writing.write(loose.images, [loose.instances], str(target), 1)
    content = json.loads(loose.instances.read_text())
    content["images"][0]["file_name"] = "../secret.png"
    with sqlite3.connect(target / shards.INDEX) as index:
        index.execute("INSERT INTO pictures VALUES ('../secret.png', '..', 1, 0, 10)")
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="leads out of the images folder"):
        CocoDataset([target], [tmp_path / "a.json"])


@pytest.mark.parametrize(
    "wrong",
    [
        "UPDATE shards SET name = '../secret.tar'",
        "UPDATE shards SET name = '/etc/passwd'",
        "UPDATE shards SET name = x'00'",
        "UPDATE pictures SET first = -1",
        "UPDATE pictures SET size = -1",
        "UPDATE pictures SET size = 'much'",
        "UPDATE pictures SET first = 1 << 40",
    ],
)
def test_an_index_of_a_strangers_names_parts_of_tars_alone(loose, tmp_path, cache, wrong):
    target = tmp_path / "shards"
    writing.write(loose.images, [loose.instances], str(target), 1)
    (tmp_path / "secret.tar").write_bytes((target / "00001.tar").read_bytes())
    name = next(loose.images.iterdir()).name
    assert read_image(target / name).size
    with sqlite3.connect(target / shards.INDEX) as index:
        index.execute(wrong)
    with pytest.raises(UserError, match=r"shards.sqlite: where it says that .* is, is no part of a tar"):
        read_image(target / name)
    if "name" in wrong:  # which would be written to, too
        folder = found_here(target.as_uri())
        before = (tmp_path / "secret.tar").stat().st_mtime_ns
        with pytest.raises(UserError, match="no name of a tar"):
            fetching.fetch(folder)
        assert (tmp_path / "secret.tar").stat().st_mtime_ns == before


def test_a_folder_of_a_strangers_leads_to_no_url(loose, tmp_path):
    target = tmp_path / "shards"
    writing.write(loose.images, [loose.instances], str(target), 1)
    (tmp_path / "elsewhere").mkdir()
    (target / "00001.tar").rename(tmp_path / "elsewhere" / "00001.tar")
    (target / shards.ORIGIN).write_text((tmp_path / "elsewhere").as_uri())
    with pytest.raises(UserError, match=r"00001.tar: cannot be read"):
        read_image(target / next(loose.images.iterdir()).name)


@pytest.mark.parametrize("name", ["../out.png", "missing.png"])
def test_only_what_is_in_the_folder_is_packed(loose, tmp_path, name):
    content = json.loads(loose.instances.read_text())
    content["images"][0]["file_name"] = name
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"image 1 \("):
        writing.write(loose.images, [tmp_path / "a.json"], str(tmp_path / "out"), 1)
    assert not (tmp_path / "out").exists()


def test_shards_are_not_written_over_others(loose, tars):
    with pytest.raises(UserError, match="there are shards already"):
        writing.write(loose.images, [loose.instances], str(tars), 1)


def test_a_torn_or_missing_shard_is_a_line(loose, tmp_path):
    writing.write(loose.images, [loose.instances], str(tmp_path), 1)
    tar, last = tmp_path / "00001.tar", sorted(loose.images.iterdir())[-1].name
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"00001.tar: torn, or not its index's: it should hold .*; write or copy"):
        read_image(tmp_path / last)
    tar.unlink()
    with pytest.raises(UserError, match=r"00001.tar: cannot be read .*; write or copy"):
        read_image(tmp_path / last)
    with sqlite3.connect(tmp_path / shards.INDEX) as index:
        index.execute("ALTER TABLE pictures RENAME TO others")
        index.execute("CREATE VIEW pictures AS SELECT * FROM others")
    with pytest.raises(UserError, match=r"no index of shards \(its tables are missing\)"):
        read_image(tmp_path / last)
    (tmp_path / shards.INDEX).write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"shards.sqlite: no index of shards"):
        read_image(tmp_path / last)


def test_pictures_are_read_where_they_lie_in_any_storage(loose, cache):
    memory = fsspec.filesystem("memory")
    writing.write(loose.images, [loose.instances], "memory://bucket/set", 0.05)
    data = Data(train=Images(["memory://bucket/set/"], ["memory://bucket/set/instances.json"]))
    here = at_hand(data).train
    dataset, files = CocoDataset(here.images, here.annotations), CocoDataset([loose.images], [loose.instances])
    assert all((dataset.image(i) == files.image(i)).all() for i in range(10))
    assert not list(cache.glob("*/*.tar"))
    assert described([dataset.path(i) for i in range(10)]) == ""
    memory.pipe_file("/bucket/set/00001.tar", b"torn")
    with pytest.raises(UserError, match=r"memory://bucket/set/00001.tar: torn"):
        dataset.image(0)
    memory.rm("/bucket/set/00001.tar")
    with pytest.raises(UserError, match=r"memory://bucket/set/00001.tar: cannot be read"):
        dataset.image(0)
    with pytest.raises(UserError, match=r"memory://bucket/none/shards.sqlite: cannot be read"):
        found_here("memory://bucket/none")


def test_tars_are_copied_as_far_as_there_is_room_and_read_from_storage_beyond(loose, tars, cache, monkeypatch, capsys):
    folder = found_here(tars.as_uri())
    sizes = [tar.stat().st_size for tar in sorted(tars.glob("*.tar"))]
    monkeypatch.setenv("MASKWORKS_SHARDS_GIGABYTES", str((sum(sizes) - 1) / 1e9))
    (folder / ".00001.tar.unfinished").write_bytes(b"what a killed process left")
    fetching.fetch(folder)
    there = sorted(path.name for path in folder.glob("*.tar"))
    assert there == [f"{number:05}.tar" for number in range(1, len(sizes))]
    assert "is full" in capsys.readouterr().out
    for file in loose.images.iterdir():
        assert (read_image(folder / file.name) == read_image(file)).all()


def test_a_shard_that_does_not_arrive_whole_is_not_kept(tars, cache, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in tars.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    changed = bytearray((copy / "00002.tar").read_bytes())
    changed[-2000] ^= 1
    (copy / "00002.tar").write_bytes(changed)
    folder = found_here(copy.as_uri())
    monkeypatch.setenv("MASKWORKS_SHARDS_GIGABYTES", "1")
    with pytest.raises(UserError, match=r"copy/00002.tar: torn, or not its index's"):
        fetching.fetch(folder)
    assert [path.name for path in folder.glob("*.tar")] == ["00001.tar"]


def test_several_processes_may_copy_and_read_at_once(loose, tars, cache, monkeypatch):
    folder = found_here(tars.as_uri())
    monkeypatch.setenv("MASKWORKS_SHARDS_GIGABYTES", "1")
    context = multiprocessing.get_context("fork")
    copying = [context.Process(target=fetching.fetch, args=(folder,)) for _ in range(3)]
    for process in copying:
        process.start()
    while any(process.is_alive() for process in copying):
        for file in loose.images.iterdir():
            assert (read_image(folder / file.name) == read_image(file)).all()
    assert [process.exitcode for process in copying] == [0, 0, 0]
    for tar in tars.glob("*.tar"):
        assert (folder / tar.name).read_bytes() == tar.read_bytes()


def test_shards_that_were_written_anew_are_other_shards(tars, cache, tmp_path):
    before = found_here(tars.as_uri())
    assert found_here(tars.as_uri()) == before
    index = (tars / shards.INDEX).read_bytes()
    assert before.name == hashlib.sha256(index).hexdigest()[:24]


def test_a_bound_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("MASKWORKS_SHARDS_GIGABYTES", "much")
    with pytest.raises(UserError, match="expected a number of gigabytes"):
        fetching.gigabytes()


def opened_by(package: str, images: object, scenes: shapes.ShapesFolder) -> LabelledImages:
    """A package's own data set of these pictures."""
    settings, task = Training(limit=3), {"upsnet": "panoptic", "glip": "captions", "pose2seg": "keypoints"}
    named = Images([str(images)], [str(getattr(scenes, task.get(package, "instances")))])
    config = import_module(f"{package}.config").Config().data if package in task else SaliencyData()
    data = replace(config, train=named)
    opened = {"upsnet": open_panoptic, "glip": open_data, "pose2seg": open_people}.get(package, open_saliency)
    return opened(shapes.fill_in(data, "train"), "train", settings)


@pytest.mark.parametrize("package", ["upsnet", "glip", "pose2seg", "refinemask_psg.u2net"])
def test_packages_with_data_sets_of_their_own_read_shards_too(package, loose, tars):
    files, sharded = (opened_by(package, images, loose) for images in (loose.images, tars))
    for index in range(len(files)):
        assert (sharded[index].image == files[index].image).all()


@pytest.mark.parametrize("kind", ["panoptic", "psg", "prepared psg"])
def test_label_pictures_travel_in_the_tars_with_their_photographs(kind, loose, tmp_path, cache):
    """Read from a folder and by URL, with the files as they are."""
    images, annotations = (loose.images, loose.panoptic) if kind == "panoptic" else (loose.root, loose.scene_graph)
    if kind == "prepared psg":
        annotations = tmp_path / "prepared.json"
        annotations.write_bytes(msgspec.json.encode(read_prepared(loose.scene_graph, "train")))
    target = tmp_path / "shards"
    assert writing.write(images, [annotations], str(target), 0.05)[0] == 20
    assert {path.suffix for path in target.iterdir()} == {".tar", ".json", ".sqlite"}
    here = at_hand(Data(train=Images([target.as_uri()], [f"{target.as_uri()}/{annotations.name}"]))).train
    opened = [
        PsgDataset(folder, files, "train") if "psg" in kind else PanopticDataset(folder, files)
        for folder, files in (([images], [annotations]), ([target], [target / annotations.name]), astuple(here))
    ]
    for index in range(10):
        expected, *others = (dataset[index] for dataset in opened)
        for sample in others:
            for name in ("image", "boxes", "labels", "masks", "crowd", "semantic", "relations"):
                np.testing.assert_array_equal(getattr(sample, name), getattr(expected, name))


def test_a_panoptic_file_whose_labels_are_missing_is_not_packed(loose, tmp_path):
    (tmp_path / "alone.json").write_bytes(loose.panoptic.read_bytes())
    with pytest.raises(UserError, match=r"alone: no such folder"):
        writing.write(loose.images, [tmp_path / "alone.json"], str(tmp_path / "out"), 1)
    (tmp_path / "alone").mkdir()
    with pytest.raises(UserError, match=r"image 1 .*there is no such file in .*alone"):
        writing.write(loose.images, [tmp_path / "alone.json"], str(tmp_path / "out"), 1)


def flags(images: object, annotations: object) -> list[str]:
    sets = [f"--data.{split}.{name}" for split in ("train", "val") for name in ("images", "annotations")]
    return [str(word) for pair in zip(sets, [images, annotations] * 2, strict=True) for word in pair]


def test_training_from_shards_gives_the_weights_of_loose_files_resumed_and_with_any_workers(
    loose, tars, tmp_path, monkeypatch
):
    """By URL, killed in the middle of a shard and resumed with other workers; evaluation reads the shards too."""
    monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
    small = ["-m", "solov2.train", *SMALL, *EXACT, "--save-every", 1]
    from_files = flags(loose.images, loose.instances)
    python(*small, *from_files, "--run", tmp_path / "loose", "--workers", 0, cwd=tmp_path)
    run = tmp_path / "run"
    sharded = [*small, *flags(tars.as_uri(), f"{tars.as_uri()}/instances.json"), "--run", str(run), "--workers"]
    program = start(*sharded, 2, cwd=tmp_path)
    wait_for_step(run, 4)
    os.kill(program.processes[0], signal.SIGKILL)
    program.end(-signal.SIGKILL)
    done = python(*sharded, 1, "--resume", cwd=tmp_path)
    assert "predict" not in done.stdout.partition("to go on:")[2]
    losses = [[line["loss"] for line in logged_steps(tmp_path / name)] for name in ("loose", "run")]
    assert losses[0] == losses[1]
    weights = [load(tmp_path / name / "last.safetensors").weights for name in ("loose", "run")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("loose", "run")]
    assert scores[0] == scores[1]


def test_a_picture_is_read_in_processes_that_were_forked_after_the_first(tars, loose):
    first = sorted(loose.images.iterdir())[0]
    expected = read_image(tars / first.name)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for found in pool.map(read_image, [tars / first.name] * 4):
            np.testing.assert_array_equal(found, expected)
