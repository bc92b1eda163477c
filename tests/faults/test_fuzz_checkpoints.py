"""Checkpoints with something wrong in them: converted rightly or refused in words, whichever package they are for."""

import json
import math
import pickle
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import solov2
from common.errors import UserError
from common.run import checkpoint
from common.run.checkpoint import Checkpoint, check_weights
from common.run.configuration import to_dict
from common.run.resume import load_state
from maskworks.packages import NETWORKS
from maskworks.published import formats
from maskworks.published.class_lists import classes_of
from maskworks.published.origin import Origin
from maskworks.published.renaming import refusing_fragments
from scripts import mmdet2pytorch
from scripts.mmdet2pytorch import package_of
from tests.faults.mutation import answer, fuzz, junk, mutated
from tests.glip.test_convert import published as glip_name
from tests.maskrcnn.test_convert import published_by_benchmark
from tests.pose2seg.test_convert import published as pose2seg_name
from tests.refinemask_psg.test_convert import published_name as refinemask_name
from tests.running import status
from tests.solov2.test_convert import published_by_solo
from tests.upsnet.test_convert import published as upsnet_name
from tests.yolact.test_convert import published_by_dbolya

PUBLISHED = {  # a variant, and our names as its files have them
    "solov2": ("light_r18_448", published_by_solo),
    "yolact": ("resnet50_550", published_by_dbolya),
    "maskrcnn": ("r50_fpn_1x", published_by_benchmark),
    "refinemask_psg": ("refinemask_r50_1x", lambda name: refinemask_name(name, 1)),
    "upsnet": ("resnet50_coco", upsnet_name),
    "glip": ("glip_a_tiny_o365", lambda name: glip_name(name, False)),
    "pose2seg": ("coco_occ", pose2seg_name),
}
SIZES = st.sampled_from([0, 1, 2, 3, 5, 7, 18, 32, 64, 80, 81, 256, 1000, 10**6, 2**31, 2**40])
BUILT: dict[str, torch.nn.Module] = {}  # building takes most of the time, and most faults change no setting
TYPES = st.sampled_from([torch.float16, torch.int64, torch.bool, torch.complex64, torch.float64, torch.uint8])


@cache
def state_of(package: str) -> dict[str, Tensor]:
    """A published state dict; shapes only."""
    variant, published = PUBLISHED[package]
    module = import_module(package)
    with torch.device("meta"):
        model = getattr(module, NETWORKS[package])(module.VARIANTS[variant], [str(n) for n in range(80)])
    return {published(name): value for name, value in model.state_dict().items()}


@st.composite
def broken(draw: st.DrawFn, state: dict[str, Tensor]) -> dict[Any, Any]:
    """A state dict with names missing, added or changed, and tensors of other shapes and types."""
    state = dict(state)
    for _ in range(draw(st.integers(1, 4))):
        name = draw(st.sampled_from(sorted(state)))
        kind = draw(
            st.sampled_from(["shape", "shape", "missing", "many missing", "type", "name", "added", "no tensor"])
        )
        if kind == "shape":
            shape = list(state[name].shape) if isinstance(state[name], Tensor) else []
            axis = draw(st.integers(0, max(0, len(shape) - 1)))
            shape[axis : axis + 1] = draw(st.lists(SIZES, max_size=2))
            if math.prod(shape) < 2**55:
                state[name] = torch.empty(shape, device="meta")
        elif kind == "missing":
            del state[name]
        elif kind == "many missing":
            prefix = name[: draw(st.integers(min(3, len(name)), len(name)))]
            state = {key: value for key, value in state.items() if not key.startswith(prefix)} or state
        elif kind == "type":
            state[name] = torch.empty(
                state[name].shape if isinstance(state[name], Tensor) else (), dtype=draw(TYPES), device="meta"
            )
        elif kind == "name":
            state[draw(st.sampled_from([name + "x", "module." + name, name.replace(".0.", ".9."), name[1:]]))] = (
                state.pop(name)
            )
        elif kind == "added":
            state[draw(st.text(max_size=9) | st.just("backbone.layer3.77.conv1.weight"))] = torch.zeros(1)
        else:
            state[name] = draw(junk)
    return state


def convert(package: str, state: dict[str, Any], tensors_only: bool) -> bool:
    """As scripts/mmdet2pytorch.py does, but for writing the file; whether the weights fit."""
    if tensors_only:
        state = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    module, conversion = import_module(package), import_module(f"{package}.convert")
    if not conversion.recognise(state):
        return False
    converted = conversion.convert(state)
    count = conversion.class_count(converted.weights)
    key = f"{package} {count} {converted.config}"
    if key not in BUILT:
        with torch.device("meta"), refusing_fragments():
            BUILT[key] = getattr(module, NETWORKS[package])(converted.config, [str(n) for n in range(min(count, 1000))])
    check_weights(BUILT[key], converted.weights, "file")
    return True


@pytest.mark.parametrize("package", PUBLISHED)
def test_whole_checkpoints_are_converted(package: str) -> None:
    state = state_of(package)
    assert package_of(state, Path("file")) == package
    assert convert(package, state, tensors_only=True)


@pytest.mark.parametrize("package", PUBLISHED)
@fuzz(20)
@given(data=st.data(), tensors_only=st.booleans())
def test_broken_checkpoints_are_converted_or_refused(package: str, data: st.DataObject, tensors_only: bool) -> None:
    state = data.draw(broken(state_of(package)))
    answer(lambda: convert(package, state, tensors_only), one_line=False)  # all that doesn't fit is listed
    if tensors_only:
        answer(lambda: package_of({str(k): v for k, v in state.items() if isinstance(v, Tensor)}, Path("file")))


CONTENT = {
    "state_dict": {"module.a.weight": torch.zeros(2, 2), "b": torch.zeros(3)},
    "meta": {"CLASSES": ("cat", "dog"), "dataset_meta": {"classes": ["cat"]}, "epoch": 3},
    "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
}


@fuzz(80)
@given(content=mutated(CONTENT) | junk, how=st.sampled_from(["torch", "old torch", "pickle"]), count=st.integers(0, 3))
def test_files_with_odd_things_beside_the_weights(tmp_path: Path, content: Any, how: str, count: int) -> None:
    path = tmp_path / ("file.pkl" if how == "pickle" else "file.pth")
    if how == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    found = answer(lambda: formats.read_published(path))
    if found is not None:
        state, rest = found
        assert all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items())
        found_classes, _ = classes_of(Origin.read(str(path), rest), count, lambda _: None)
        assert len(found_classes.names) == len(found_classes.ids) == count


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    checkpoint.save(folder / "a.safetensors", Checkpoint("solov2", {"x": 1}, ("cat",), (1,), {"a": torch.zeros(3)}))
    torch.save(CONTENT, folder / "a.pth")
    torch.save(CONTENT, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "a.pkl").write_bytes(pickle.dumps({"blobs": {"a": torch.zeros(3).numpy()}}))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@fuzz(100)
@given(data=st.data(), name=st.sampled_from(["a.safetensors", "a.pth", "old.pth", "a.pkl"]))
@pytest.mark.filterwarnings("ignore")
def test_bytes_that_were_a_checkpoint_once(
    tmp_path: Path, files: dict[str, bytes], data: st.DataObject, name: str
) -> None:
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at, end = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 12))
        content[at : at + end] = data.draw(st.sampled_from([b"", b"\0" * 8, b"\xff" * 8, b"{"]) | st.binary(max_size=4))
    path = tmp_path / name
    path.write_bytes(content)
    answer(lambda: formats.read_published(path))
    if name == "a.safetensors":
        answer(lambda: checkpoint.load(path))
        answer(lambda: load_state(path))


SMALL = json.dumps(to_dict(solov2.VARIANTS["shapes"]))


@fuzz(30)
@given(changes=st.dictionaries(st.sampled_from(["format", "package", "config", "class_names", "category_ids"]), junk))
def test_odd_words_in_our_own_checkpoints(tmp_path: Path, changes: dict[str, Any]) -> None:
    metadata = {"format": "1", "package": "solov2", "config": SMALL, "class_names": '["cat"]', "category_ids": "[1]"}
    metadata |= {name: value if isinstance(value, str) else json.dumps(value) for name, value in changes.items()}
    metadata = {name: value.encode("utf-8", "replace").decode() for name, value in metadata.items()}
    checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(1)}, metadata)
    answer(lambda: solov2.load(tmp_path / "a.safetensors"), one_line=False)
    answer(lambda: formats.read_checkpoint_or_published(tmp_path / "a.safetensors"))


def test_a_small_file_that_claims_a_huge_tensor_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {name: torch.zeros(()).expand(value.shape) for name, value in state_of("solov2").items()}
    state["bbox_head.solo_cate.weight"] = torch.zeros(1).expand(2**20, 2**20, 3, 3)
    torch.save(state, tmp_path / "huge.pth")
    assert (tmp_path / "huge.pth").stat().st_size < 2**20
    assert status(mmdet2pytorch.main, tmp_path / "huge.pth") == 2
    assert "Traceback" not in capsys.readouterr().err


WIDTHS = {
    "solov2": "tower_channels",
    "yolact": "channels",
    "maskrcnn": "fpn_channels",
    "refinemask_psg": "fpn_channels",
    "upsnet": "fpn_channels",
    "glip": "channels",
    "pose2seg": "fpn_channels",
}


@pytest.mark.parametrize("package", PUBLISHED)
def test_a_checkpoint_of_ours_that_claims_a_huge_network_is_refused(package: str, tmp_path: Path) -> None:
    module = import_module(package)
    config = to_dict(module.VARIANTS["shapes"])
    assert WIDTHS[package] in config["model"]
    config["model"][WIDTHS[package]] = 2**16  # a convolution of as many channels on both sides has 150 GB
    content = Checkpoint(package, config, ("cat", "dog"), (1, 2), {"a": torch.zeros(1)})
    checkpoint.save(tmp_path / "huge.safetensors", content)
    with pytest.raises(UserError, match="the weights do not fit the network"):
        module.load(tmp_path / "huge.safetensors")
    config["model"][WIDTHS[package]] = 2**40
    checkpoint.save(tmp_path / "huge.safetensors", content)
    with pytest.raises(UserError, match="Expected `int` <= 65536"):
        module.load(tmp_path / "huge.safetensors")
