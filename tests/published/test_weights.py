"""Weights by name: fetched and converted once, taken where a weights file may stand; the real lists by their form."""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import solov2
from common.errors import UserError
from maskworks.packages import NETWORKS
from maskworks.published import fetching, names, weights
from maskworks.published.coco_classes import COCO_CLASSES
from maskworks.published.names import Published, local_file, published
from solov2.config import VARIANTS
from solov2.weights import initialise
from tests.running import call
from tests.solov2.test_convert import published_by_solo
from tests.web import Server, serving

SIZES = {
    "backbone": "resnet10",
    "fpn_channels": 32,
    "tower_channels": 32,
    "tower_depth": 1,
    "mask_channels": 32,
    "mask_head_channels": 32,
}


def small() -> solov2.SOLOv2:
    config = VARIANTS["light_r18_448"]
    torch.manual_seed(0)
    return solov2.SOLOv2(replace(config, model=replace(config.model, **SIZES)), COCO_CLASSES)


def as_published(model: solov2.SOLOv2) -> bytes:
    file = io.BytesIO()
    torch.save({published_by_solo(name): value for name, value in model.state_dict().items()}, file)
    return file.getvalue()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One made-up checkpoint, published as solov2:small; the cache and the current folder are new."""
    content = as_published(small())
    file = f"small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    with serving({file: content, "resnet18-12345678.pth": content}) as made:
        entry = Published(
            url=made.url(file),
            source="https://example.org",
            licence="MIT",
            trained_on="COCO train2017",
            variant="light_r18_448",
            scores={"segm": 29.6},
            digest=f"sha256:{file[-12:-4]}",
            classes="coco",
        )
        by_hand = msgspec.structs.replace(entry, url="https://example.org/page", file="drive.pth", digest="")
        monkeypatch.setattr(names, "published", lambda: {"solov2": {"small": entry, "drive": by_hand}})
        monkeypatch.setattr(weights, "published", names.published)
        monkeypatch.setenv("MASKWORKS_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield made


def test_a_name_is_fetched_and_converted_once_and_then_needs_no_network(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = solov2.load("solov2:small", trainable=True)
    assert "variant = light_r18_448: from solov2/weights.toml" in capsys.readouterr().err
    assert model.class_names == COCO_CLASSES
    expected = small().state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    folder = tmp_path / "cache/weights/solov2/small"
    ours = folder / "small.safetensors"
    made = ours.stat().st_mtime_ns
    server.shutdown()
    solov2.load("solov2:small")
    assert (len(server.asked), ours.stat().st_mtime_ns) == (1, made)
    assert not list(folder.glob("*.part"))


def test_what_an_older_converter_made_is_made_anew_from_the_file_that_is_there(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = local_file("solov2:small")
    made = ours.stat().st_mtime_ns
    monkeypatch.setattr(fetching, "newest", lambda package: made / 1e9 + 1)
    assert local_file("solov2:small").stat().st_mtime_ns > made
    assert len(server.asked) == 1


def test_what_cannot_be_converted_is_fetched_anew_once_it_is_removed(server: Server) -> None:
    entry = names.published()["solov2"]["small"]
    entry.digest = ""
    (file,) = [name for name in server.files if name.startswith("small")]
    whole, server.files[file] = server.files[file], b"<html>a proxy that says this is a file</html>"
    place = names.place_of("solov2", "small", entry)
    for _ in range(2):
        with pytest.raises(UserError, match=rf"not read, since it is broken .*; to fetch it anew remove {place}"):
            solov2.load("solov2:small")
    assert {path.name for path in place.parent.iterdir()} <= {
        place.name,
        f"{place.name}.lock",
        "small.safetensors.lock",
    }
    server.files[file] = whole
    place.unlink()
    assert solov2.load("solov2:small").class_names == COCO_CLASSES


def test_a_training_starts_from_a_name(server: Server) -> None:
    model = small()
    for value in model.parameters():
        value.data.zero_()
    initialise(model, "solov2:small")
    assert torch.equal(model.state_dict()["fpn.inner_blocks.0.0.weight"], small().fpn.inner_blocks[0][0].weight)


def test_a_name_that_nobody_has_published_names_its_nearest(server: Server) -> None:
    with pytest.raises(UserError, match=r"solov2:smal: no weights of that name; did you mean solov2:small\?"):
        solov2.load("solov2:smal")
    assert local_file("elsewhere:file.pth") == Path("elsewhere:file.pth")  # of no package here


def test_what_only_a_person_can_fetch_says_where_to_put_it(server: Server, tmp_path: Path) -> None:
    place = tmp_path / "cache/weights/solov2/drive/drive.pth"
    with pytest.raises(
        UserError, match=re.escape(f"fetch drive.pth by hand from https://example.org/page, and put it at {place}")
    ):
        solov2.load("solov2:drive")
    place.parent.mkdir(parents=True)
    place.write_bytes(as_published(small()))
    assert solov2.load("solov2:drive").class_names == COCO_CLASSES
    assert not server.asked


def test_weights_of_another_package_are_refused(server: Server) -> None:
    with pytest.raises(UserError, match="a checkpoint of solov2, not of yolact"):
        import_module("yolact").load("solov2:small")


def test_torchvisions_backbones_go_the_same_way(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth"
    assert torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.endswith(file.name)
    monkeypatch.setattr(fetching, "fetch", lambda url, target, digest: (url.rpartition("/")[2], target, digest))
    cached = tmp_path / "cache/weights/torchvision" / file.name
    assert local_file("torchvision:resnet18") == (file.name, cached, "sha256:f37072fd")
    file.parent.mkdir(parents=True)
    file.touch()
    assert local_file("torchvision:resnet18") == file
    for name in ("resnet19", "maskrcnn_resnet50_fpn"):
        with pytest.raises(UserError, match=f"torchvision:{name}: torchvision has none of that name"):
            local_file(f"torchvision:{name}")


def test_the_list_is_printed_and_downloads(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str) -> str:
        monkeypatch.setenv("COLUMNS", "160")
        call("maskworks.published.weights", *arguments)
        return capsys.readouterr().out

    assert re.search(r"solov2:small +│ segm 29.6 +│ COCO val2017 │ COCO train2017 │ MIT +│ +│", printed())
    assert printed("--download", "solov2:small").startswith("solov2:small: ")
    assert re.search(r"solov2:small .*│ yes +│", printed())


@pytest.mark.parametrize("package", sorted(published()))
def test_the_real_lists_are_of_the_right_form(package: str) -> None:
    variants = dict(import_module(package).VARIANTS)
    addresses = set()
    for name, entry in published()[package].items():
        assert re.fullmatch(r"[a-z0-9_]+", name)
        assert re.match(r"https?://[\w.-]+/", entry.url)
        assert entry.source.startswith("https://")
        assert entry.variant in variants or not (entry.variant or entry.scores), name
        assert re.fullmatch(r"(sha256:[0-9a-f]{8}|md5:([0-9a-f]{6}|[0-9a-f]{32}))?", entry.digest), name
        assert entry.file or entry.url.endswith((".pth", ".pkl", ".onnx")), name
        assert entry.licence
        assert entry.trained_on
        assert set(entry.scores) <= {"segm", "bbox", "panoptic"}
        addresses.add((entry.url, entry.file))
        if "openmmlab" in entry.url or ("download.pytorch.org/models/" in entry.url and "/maskrcnn/" not in entry.url):
            assert entry.digest == f"sha256:{entry.url[-12:-4]}"
        if "dl.fbaipublicfiles.com/detectron2/COCO" in entry.url:
            assert entry.digest == f"md5:{entry.url[-10:-4]}"
    assert len(addresses) == len(published()[package])


def test_every_package_has_a_list() -> None:
    assert set(published()) == {path.parent.name for path in Path(solov2.__file__).parents[1].glob("*/convert.py")}


@pytest.mark.parametrize("package", ["glip", "pose2seg", "solov2", "upsnet", "yolact"])
def test_a_file_of_another_network_is_refused(package: str) -> None:
    conversion = import_module(f"{package}.convert")
    for name in ("backbone.conv1.weight", "roi_head.bbox_head.fc_cls.weight"):
        assert conversion.recognise({name: torch.zeros(1)}) is None
        with pytest.raises(UserError, match=f"not a {NETWORKS[package]} checkpoint"):
            conversion.convert({name: torch.zeros(1)})


def test_photographs_are_predicted_with_a_name(server: Server, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "street.png")
    call("solov2.predict", "--weights", "solov2:small", "street.png", "--out", "found", "--device", "cpu")
    assert (tmp_path / "found/predictions.json").exists()


def test_a_file_with_a_digest_is_that_file_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert local_file(f"{file}@sha256:{digest}") == file
    with pytest.raises(UserError, match=f"its SHA-256 is {digest}, expected {'0' * 64}"):
        local_file(f"{file}@sha256:{'0' * 64}")
    with pytest.raises(UserError, match="64 digits"):
        local_file(f"{file}@sha256:{digest[:8]}")  # as short a beginning can be made to fit
    with pytest.raises(UserError, match="no such file"):
        local_file(f"{tmp_path / 'b'}@sha256:{digest}")
