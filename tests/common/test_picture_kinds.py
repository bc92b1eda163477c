"""Pictures that aren't plain RGB of 8 bits, read as people mean them; what isn't a picture is refused."""

import json
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from common.data.coco import CocoDataset
from common.data.images import image_size, read_ids, read_image
from common.errors import UserError
from common.run.evaluation import photographs
from maskworks.commands.runs import describe_pictures
from maskworks.picture_kinds import described
from maskworks.prediction.command import Predict, Work

RAMP = np.linspace(0, 1, 40)[None].repeat(24, axis=0)  # [24, 40]


def save(path: Path, pixels: NDArray[np.generic] | Image.Image, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize(("top", "white"), [(200, 255), (900, 1023), (4000, 4095), (4096, 16383), (65535, 65535)])
def test_sixteen_bits_are_scaled_by_the_bits_that_the_brightest_value_needs(
    suffix: str, top: int, white: int, tmp_path: Path
) -> None:
    values = np.rint(RAMP * top).astype(np.uint16)
    expected = np.rint(values.astype(float) * 255 / white)
    grey = read_image(save(tmp_path / f"a.{suffix}", values))
    np.testing.assert_array_equal(grey, expected[..., None].repeat(3, axis=2))
    colours = np.stack([values, values // 2, values * 0], axis=-1)
    cv2.imwrite(str(tmp_path / f"c.{suffix}"), colours[..., ::-1])
    np.testing.assert_array_equal(read_image(tmp_path / f"c.{suffix}"), np.rint(colours * (255 / white)))


@pytest.mark.parametrize("top", [1.0, 4095.0])
def test_floating_point_and_long_numbers_are_of_one_or_of_their_bits(top: float, tmp_path: Path) -> None:
    expected = np.rint(RAMP * 255)[..., None].repeat(3, axis=2)
    for number, values in enumerate([(RAMP * top).astype(np.float32), np.rint(RAMP * 4095).astype(np.int32)]):
        image = read_image(save(tmp_path / f"{number}.tif", values))
        assert np.abs(image.astype(int) - expected).max() <= 1
    for values in (RAMP - 0.5, RAMP * 70_000, RAMP * np.nan):
        with pytest.raises(UserError, match=r"b\.tif: its values go from .* expected 0 to 1, or 0 to 65535"):
            read_image(save(tmp_path / "b.tif", values.astype(np.float32)))


def test_a_deep_picture_whose_zero_is_white_is_turned_round(tmp_path: Path) -> None:
    values = np.rint(RAMP * 4095).astype(np.uint16)
    image = read_image(save(tmp_path / "a.tif", values, tiffinfo={262: 0}))
    np.testing.assert_array_equal(image[..., 0], 255 - np.rint(RAMP * 255))


@pytest.mark.parametrize("kind", ["rgba.png", "rgba.tif", "rgba.webp", "la.png", "palette.png", "deep.png", "deep.tif"])
def test_what_is_transparent_is_laid_on_white(kind: str, tmp_path: Path) -> None:
    opacity = np.full((24, 40), 255, np.uint8)
    opacity[:, :10], opacity[:, 10:20] = 0, 128
    path, layers = tmp_path / kind, np.dstack([np.full((24, 40, 3), (60, 60, 60), np.uint8), opacity])
    layers[0, 39, :3] = 255  # a deep picture needs all of its bits
    if kind.startswith("deep"):
        cv2.imwrite(str(path), layers.astype(np.uint16) * 257)
    elif kind == "la.png":
        save(path, Image.fromarray(layers).convert("LA"))
    elif kind == "palette.png":
        palette = Image.fromarray((np.arange(40)[None].repeat(24, axis=0) >= 10).astype(np.uint8), "P")
        palette.putpalette([1, 2, 3, 60, 60, 60])
        save(path, palette, transparency=0)
    else:
        save(path, layers, **({"lossless": True, "exact": True} if kind == "rgba.webp" else {}))
    image = read_image(path)
    assert (image[:, :10] == 255).all()
    assert (image[1:, 20:] == 60).all()
    if kind != "palette.png":
        assert np.abs(image[:, 10:20].astype(float) - (60 * 128 + 255 * 127) / 255).max() <= 1


@pytest.mark.parametrize("opacity", [0, 90, 255])
def test_an_even_opacity_says_nothing_and_numbers_have_none(opacity: int, tmp_path: Path) -> None:
    layers = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    plain = save(tmp_path / "plain.png", layers[..., :3])
    ids = layers[..., :3].astype(int) @ [1, 256, 65536]
    np.testing.assert_array_equal(read_ids(save(tmp_path / "ids.png", layers)), ids)
    layers[..., 3] = opacity
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", layers)), read_image(plain))


def test_of_several_pages_the_first_is_taken(tmp_path: Path) -> None:
    first, *others = [Image.fromarray(np.full((24, 40), value, np.uint16)) for value in (4095, 7, 8)]
    path = save(tmp_path / "a.tif", first, save_all=True, append_images=others)
    assert (read_image(path) == 255).all()


def test_deep_pictures_turn_as_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.rint(RAMP * 4095).astype(np.uint16)
    path = save(tmp_path / "a.tif", values, exif=exif)
    assert image_size(path) == (40, 24)
    np.testing.assert_array_equal(read_image(path)[..., 0], np.rot90(np.rint(RAMP * 255), -1))


def test_a_line_says_what_was_done(tmp_path: Path) -> None:
    grey = np.rint(RAMP * 255).astype(np.uint8)
    plain = save(tmp_path / "0.png", grey[..., None].repeat(3, axis=2))
    assert described([plain, tmp_path / "missing.png"]) == ""
    deep = [save(tmp_path / f"{top}.png", np.rint(RAMP * top).astype(np.uint16)) for top in (4000, 4095, 300)]
    assert described([plain, *deep]) == (
        "pictures: 3 of 4 hold more than 8 bits (each scaled by the bits, 8, 10, 12, 14 or 16, that its brightest "
        "value needs: 10 in 1 looked at, 12 in 2 looked at); 3 of 4 are grey (the same in all three colours)"
    )
    exif = Image.Exif()
    exif[0x0112] = 3
    colours = Image.fromarray(grey).convert("RGB")
    pages = save(tmp_path / "pages.tif", colours, save_all=True, append_images=[colours])
    turned = save(tmp_path / "turned.jpg", colours.convert("CMYK"), exif=exif)
    assert described([pages, turned, save(tmp_path / "p.png", colours.convert("P"))]) == (
        "pictures: 1 of 3 have a palette (its colours are taken); 1 of 3 are CMYK (turned into RGB); "
        "1 of 3 are turned by Exif (as it says); 1 of 3 have several pages (the first is taken)"
    )


def test_training_evaluation_and_prediction_read_alike_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "a.png", np.rint(RAMP * 4095).astype(np.uint16))
    image = {"id": 1, "file_name": "a.png", "height": 24, "width": 40}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset = CocoDataset([tmp_path], [tmp_path / "a.json"])
    describe_pictures(dataset)
    seen = [dataset[0].image, *next(photographs(dataset, 1, 0))[1]]
    with Work(Predict([str(path)], "", str(tmp_path / "out"), device="cpu"), {}) as work:
        work.photographs(lambda path, name, pixels, shown: {"pixels": seen.append(pixels)})
    assert len(seen) == 3
    for pixels in seen:
        np.testing.assert_array_equal(pixels[..., 0], np.rint(RAMP * 255))
    assert capsys.readouterr().out.count("pictures: 1 of 1 hold more than 8 bits") == 2


def test_what_would_never_end_or_fill_the_memory_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(50 * 10**9)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    claim = b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    ends = [b"\0\0\0\0" + kind + struct.pack(">I", zlib.crc32(kind)) for kind in (b"IDAT", b"IEND")]
    (tmp_path / "claim.png").write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + claim + b"".join(ends))
    problems = {
        "pipe.jpg": "a pipe or a device",
        "device.png": "a pipe or a device",
        "sparse.jpg": r"50000000000 bytes, the limit is 800000000 \(8 for each of 100000000 pixels\)",
        "claim.png": "60000 x 60000 = 3600000000 pixels, the limit is 100000000",
    }
    for name, problem in problems.items():
        with pytest.raises(UserError, match=rf"{name}: {problem}"):
            read_image(tmp_path / name)
    assert image_size(tmp_path / "claim.png") == (60_000, 60_000)
    for name in ("pipe.jpg", "device.png", "sparse.jpg"):
        with pytest.raises(UserError, match=name):
            image_size(tmp_path / name)
