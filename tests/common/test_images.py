"""Images are decoded as OpenCV does, and every file that is no whole image is named."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from common.data.images import fit_within, image_size, is_video, list_images, read_frames, read_image, resize
from common.errors import UserError
from maskworks.prediction.film import frame_rate, write_video


@pytest.fixture
def picture() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (80, 60))  # type: ignore[return-value]


def as_opencv(path: Path) -> NDArray[np.uint8]:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert image is not None
    return image[:, :, ::-1]  # type: ignore[return-value]


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("kind", ["colour", "grey", "cmyk", "alpha", "palette", "16 bit", "progressive", "1x1"])
def test_every_kind_of_image_equals_opencv_in_rgb(kind: str, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    image = Image.fromarray(picture)
    path = {
        "colour": lambda: save(tmp_path / "a.jpg", image),
        "grey": lambda: save(tmp_path / "a.jpg", image.convert("L")),
        "cmyk": lambda: save(tmp_path / "a.jpg", image.convert("CMYK")),
        "alpha": lambda: save(tmp_path / "a.png", image.convert("RGBA")),
        "palette": lambda: save(tmp_path / "a.png", image.convert("P")),
        "16 bit": lambda: save(tmp_path / "a.png", Image.fromarray(picture[:, :, 0].astype(np.uint16) * 257)),
        "progressive": lambda: save(tmp_path / "a.jpg", image, progressive=True),
        "1x1": lambda: save(tmp_path / "a.jpg", image.crop((0, 0, 1, 1))),
    }[kind]()
    decoded = read_image(path)
    assert decoded.dtype == np.uint8
    assert decoded.shape == (*image_size(path), 3)
    np.testing.assert_array_equal(decoded, as_opencv(path))


def test_png_keeps_every_pixel_and_the_order_of_colours(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", Image.fromarray(picture))), picture)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_pixels_and_size(
    orientation: int, suffix: str, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture), exif=exif)
    decoded = read_image(path)
    np.testing.assert_array_equal(decoded, as_opencv(path))
    if suffix == "jpg":  # all versions of OpenCV turn JPEG
        assert decoded.shape[:2] == ((60, 80) if orientation < 5 else (80, 60))
        assert image_size(path) == decoded.shape[:2]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_truncated_files_are_refused(suffix: str, part: float, picture: NDArray[np.uint8], tmp_path: Path) -> None:
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(picture))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(UserError, match=rf"a\.{suffix}: the file is truncated"):
        read_image(path)


def test_a_jpeg_cut_behind_its_thumbnail_is_truncated(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    thumbnail = save(tmp_path / "small.jpg", Image.fromarray(picture[:16, :16])).read_bytes()
    data = save(tmp_path / "a.jpg", Image.fromarray(picture)).read_bytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail  # its end marker is no end of the file
    whole = tmp_path / "whole.jpg"
    whole.write_bytes(data[:2] + segment + data[2:])
    assert read_image(whole).shape == (60, 80, 3)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((data[:2] + segment + data[2:])[:-40])
    with pytest.raises(UserError, match="truncated"):
        read_image(cut)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "empty"),
        (b"this is no image\n" * 20, "not an image"),
        (b"\xff\xd8\xff\xe0 and nonsense", "not an image|truncated"),
        (b"\x89PNG\r\n\x1a\n and nonsense", "not an image|truncated"),
    ],
)
def test_files_that_are_no_images_are_named(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "note.jpg"
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(UserError, match=problem) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such image"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path)


def test_the_limit_can_be_moved(picture: NDArray[np.uint8], tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.fromarray(picture))
    assert read_image(path, max_pixels=4800).shape == (60, 80, 3)
    with pytest.raises(UserError, match="the limit is 4799"):
        read_image(path, max_pixels=4799)


def test_resize_is_opencv_bilinear() -> None:
    row = np.array([[[0] * 3, [100] * 3]], np.uint8)
    np.testing.assert_array_equal(resize(row, 1, 4)[0, :, 0], [0, 25, 75, 100])  # half-pixel centres, clamped


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (1333, 800), (800, 1067)),  # the short side decides: 640 * 800 / 480 = 1066.67
        ((200, 640), (1333, 800), (417, 1333)),  # the long side decides: 200 * 1333 / 640 = 416.56
        ((480, 640), (768, 448), (448, 597)),
        ((1, 5000), (1333, 800), (1, 1333)),  # never nothing
    ],
)
def test_fit_within(size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_within(*size, *limits) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 1500), st.integers(32, 1500))
def test_fit_within_touches_a_limit_and_exceeds_none(height: int, width: int, one: int, other: int) -> None:
    long_side, short_side = max(one, other), min(one, other)
    fitted = fit_within(height, width, long_side, short_side)
    assert max(fitted) <= long_side
    assert min(fitted) <= short_side
    assert max(fitted) == long_side or min(fitted) == short_side
    assert fit_within(width, height, long_side, short_side) == fitted[::-1]


def test_list_images_takes_files_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "deep/er/c.jpeg", "deep/notes.txt", "clip.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "album.jpg").mkdir()
    names = ["a.PNG", "b.jpg", "clip.mp4", "deep/er/c.jpeg"]
    assert list_images([str(tmp_path)]) == [tmp_path / name for name in names]
    assert list_images([str(tmp_path / "*.jpg"), str(tmp_path / "b.jpg")]) == [tmp_path / "b.jpg"]
    assert list_images([str(tmp_path / "**" / "*.jp*g")]) == [tmp_path / "b.jpg", tmp_path / "deep/er/c.jpeg"]
    assert list_images([str(tmp_path / "deep/notes.txt")]) == [tmp_path / "deep/notes.txt"]  # asked for by name


def test_list_images_names_what_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in ("empty", "*.jpg", "missing.png"):
        with pytest.raises(UserError) as caught:
            list_images([str(tmp_path / source)])
        assert str(tmp_path / source) in str(caught.value)


def test_a_video_comes_back_as_it_was_written(tmp_path: Path) -> None:
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    frames = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    path = tmp_path / "out.mp4"
    write_video(path, iter(frames), fps=5)
    assert is_video(path)
    assert not is_video("a.jpg")
    assert frame_rate(path) == pytest.approx(5)
    back = list(read_frames(path))
    assert len(back) == 3
    for frame, colour in zip(back, colours, strict=True):
        assert np.abs(frame.mean(axis=(0, 1)) - colour).max() < 25  # compressed; red stays red
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_video_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    frames = [np.zeros((48, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)]
    with pytest.raises(UserError, match="64 x 32, not 64 x 48"):
        write_video(tmp_path / "out.mp4", frames, fps=5)
    with pytest.raises(UserError, match="no frames"):
        write_video(tmp_path / "out.mp4", [], fps=5)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_videos_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("no video")
    for name in ("bad.mp4", "missing.mp4"):
        with pytest.raises(UserError, match=name):
            list(read_frames(tmp_path / name))
