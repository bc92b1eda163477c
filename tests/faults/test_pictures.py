"""Photographs of odd shapes and kinds, in every package: a right result or one line."""

import io
import struct
import zlib
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.images import read_image
from common.errors import UserError
from maskworks.packages import NETWORKS
from tests.attacks.damage import chunk
from tests.glip.small import small_model as small_glip
from tests.pose2seg.people import skeletons
from tests.pose2seg.people import small_model as small_pose2seg

ODD_SIZES = [(1, 1), (1, 10_000), (10_000, 1), (7, 300), (97, 31), (333, 500)]
VARIANTS = [(package, variant) for package in NETWORKS for variant in import_module(package).VARIANTS]


def shapes_model(package: str) -> torch.nn.Module:
    if package == "glip":
        return small_glip()
    if package == "pose2seg":
        return small_pose2seg()
    module = import_module(package)
    torch.manual_seed(0)
    config = deepcopy(module.VARIANTS["shapes"])
    if package == "upsnet":
        config.model.things = 5  # the others are stuff
    return getattr(module, NETWORKS[package])(config, [f"class {number}" for number in range(8)]).eval()


@pytest.mark.parametrize("package", NETWORKS)
def test_pictures_of_odd_shapes_are_predicted_and_drawn(package):
    model = shapes_model(package)
    random = np.random.default_rng(0)
    for size in ODD_SIZES:
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        joints = [[skeletons(2, *size)]] if package == "pose2seg" else []
        result = model.predict([image], *joints)[0]
        assert result.size == size
        assert result.draw(image).size == size[::-1]
        if package == "upsnet":
            assert result.segments.shape == size
        else:
            assert result.masks is None or result.masks.shape[1:] == size
            assert len(result) == len(result.scores) == len(result.labels) == len(result.boxes)


@pytest.mark.parametrize(("package", "variant"), VARIANTS)
def test_no_shape_makes_an_input_larger_than_a_photograph_would(package, variant):
    module = import_module(package)
    with torch.device("meta"):
        config = module.VARIANTS[variant]
        model = getattr(module, NETWORKS[package])(config, [str(number) for number in range(133)])
    usual = model.preprocess(np.zeros((480, 640, 3), np.uint8)).tensor.numel()
    for size in ODD_SIZES:
        prepared = model.preprocess(np.zeros((*size, 3), np.uint8))
        assert 0 < prepared.tensor.numel() < 2 * usual
        assert prepared.original_size == size


def bomb(kind: str) -> bytes:
    """A small file that claims or unpacks to far too much."""
    if kind == "png text":  # 200 MB of spaces beside an honest picture
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        whole, text = buffer.getvalue(), b"comment\0\0" + zlib.compress(b" " * 200_000_000, 1)
        return whole[:33] + chunk(b"zTXt", text) + whole[33:]
    side = 60_000
    buffer = io.BytesIO()
    Image.new("L", (16, 16)).save(buffer, {"jpeg": "JPEG", "bmp": "BMP", "tiff": "TIFF"}[kind])
    content = bytearray(buffer.getvalue())
    if kind == "jpeg":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", side, side)
    elif kind == "bmp":
        content[18:26] = struct.pack("<ii", side, side)
    else:
        for tag in (256, 257):
            entry = content.index(struct.pack("<H", tag), struct.unpack("<I", content[4:8])[0])
            content[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    return bytes(content)


@pytest.mark.parametrize("kind", ["jpeg", "bmp", "tiff", "png text"])
def test_decompression_bombs_are_refused_or_never_unpacked(kind, tmp_path: Path):
    path = tmp_path / f"bomb.{kind.split()[0]}"
    path.write_bytes(bomb(kind))
    if kind == "png text":
        try:
            assert read_image(path).shape == (8, 8, 3)
        except UserError as error:
            assert "\n" not in str(error)
        return
    with pytest.raises(UserError, match=r"60000 x 60000|far too many pixels"):
        read_image(path)
