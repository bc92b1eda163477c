"""Images and videos in and out: decoded and resized by OpenCV, bit for bit as the originals do.

- The size is read from the header first: a file that claims too many pixels is never decoded.
- OpenCV decodes some truncated files without a word; here they are an error.
"""

import io
import struct
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from common.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
MAX_PIXELS = 100_000_000
ORIENTATION = 0x0112  # the Exif tag; 5 to 8 are turned by a quarter
END_OF_IMAGE = b"\xff\xd9"


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """RGB [H, W, 3], as cv2.imread decodes it: Exif orientation applied, any depth and colours to 8 bits."""
    path = Path(path)
    data = _read_bytes(path)
    if _is_truncated(data):
        raise UserError(f"{path}: the file is truncated (its end is missing); copy or download it again")
    height, width = _header_size(io.BytesIO(data), path)
    if height * width > max_pixels:
        raise UserError(
            f"{path}: {width} x {height} = {height * width} pixels, the limit is {max_pixels}; "
            "make the image smaller or raise the limit"
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise UserError(f"{path}: OpenCV cannot decode it ({error.err}); save it again as JPEG or PNG") from error
    if image is None:
        raise UserError(f"{path}: the image is damaged and cannot be decoded; copy or download it again")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def read_ids(path: Path) -> NDArray[np.int64]:
    """[H, W] the segment of each pixel of a panoptic PNG, R + 256 G + 65536 B; 0 is none."""
    ids: NDArray[np.int64] = read_image(path).astype(np.int64) @ np.array([1, 256, 65536])
    return ids


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as read_image will return it, from the header alone."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _header_size(file, path)
    except OSError as error:
        raise _unreadable(path, error) from error


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bilinear without antialiasing, rounded to uint8: OpenCV's, as PIL and torch give other pixels."""
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def resize_antialiased(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Bilinear with antialiasing, rounded to uint8: Pillow's, as Detectron2 scales photographs."""
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def fit_short_side(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """fit_within as Detectron2 rounds it: the short side as asked for, unless the long one would become too long."""
    small, large = min(height, width), max(height, width)
    wanted = short_side if short_side * large / small <= long_side else long_side * small / large
    return max(1, int(height * wanted / small + 0.5)), max(1, int(width * wanted / small + 0.5))


def fit_within(height: int, width: int, long_side: int, short_side: int) -> tuple[int, int]:
    """(height, width) scaled to fit: the longer side within long_side and the shorter within short_side."""
    scale = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def list_images(sources: Sequence[str]) -> list[Path]:
    """The images and videos that files, folders (searched recursively) and globs name, sorted, each once."""
    if not sources:
        raise UserError("no photograph is named; name files, folders or globs")
    found: set[Path] = set()
    for source in sources:
        path = Path(source)
        if path.is_file():
            found.add(path)
            continue
        inside = path.rglob("*") if path.is_dir() else map(Path, glob(source, recursive=True))  # noqa: PTH207 (absolute patterns)
        media = IMAGE_SUFFIXES | VIDEO_SUFFIXES
        matches = {each for each in inside if each.suffix.lower() in media and each.is_file()}
        if not matches:
            problem = "no image in this folder" if path.is_dir() else "no image there"
            raise UserError(f"{source}: {problem}; expected {' '.join(sorted(IMAGE_SUFFIXES))}")
        found |= matches
    return sorted(found)


def is_video(path: str | Path) -> bool:
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


def read_frames(path: str | Path) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video, RGB [H, W, 3], one at a time."""
    capture = _open_video(path)
    count = 0
    try:
        while True:
            more, frame = capture.read()
            if not more:
                break
            count += 1
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
    finally:
        capture.release()
    if not count:
        raise UserError(f"{path}: the video has no frame that OpenCV can decode; convert it to MP4")


def frame_rate(path: str | Path) -> float:
    """Frames per second that a video claims; 25 where it claims nothing sensible."""
    capture = _open_video(path)
    rate = float(capture.get(cv2.CAP_PROP_FPS))
    capture.release()
    return rate if 0 < rate <= 1000 else 25.0


def write_video(path: str | Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """RGB frames of one size -> an MP4; it takes its name only when it is complete."""
    path = Path(path)
    unfinished = path.with_name(f".{path.stem}.unfinished.mp4")
    writer: cv2.VideoWriter | None = None
    size, count = (0, 0), 0
    try:
        for frame in frames:
            if writer is None:
                size = (frame.shape[1], frame.shape[0])
                writer = cv2.VideoWriter(str(unfinished), cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
                if not writer.isOpened():
                    raise UserError(f"{path}: OpenCV cannot write this video; check the folder and its rights")
            if (frame.shape[1], frame.shape[0]) != size:
                expected = f"{size[0]} x {size[1]} as the first"
                raise UserError(f"{path}: a frame is {frame.shape[1]} x {frame.shape[0]}, not {expected}")
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            count += 1
        if writer is None:
            raise UserError(f"{path}: no frames to write")
        writer.release()
        if _frame_count(unfinished) < count:  # OpenCV says nothing of a full disk
            raise UserError(f"{path}: the video could not be written completely; is the disk full?")
        unfinished.replace(path)
    finally:
        if writer is not None:
            writer.release()
        unfinished.unlink(missing_ok=True)


def _frame_count(path: Path) -> int:
    """Of a video that OpenCV has written; 0 if it isn't whole."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return count


def _open_video(path: str | Path) -> cv2.VideoCapture:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such video; check the path")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"{path}: not a video that OpenCV can read; convert it to MP4")
    return capture


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: no such image; check the path")
    return UserError(f"{path}: cannot be read ({error.strerror or error}); expected an image file")


def _header_size(file: BinaryIO, path: Path) -> tuple[int, int]:
    start = file.read(8)
    file.seek(0)
    if not start:
        raise UserError(f"{path}: the file is empty (0 bytes); copy or download it again")
    try:
        # Opened by their own classes, JPEG and PNG are free of Pillow's global limit: the caller's holds.
        if start.startswith(b"\xff\xd8\xff"):
            image: Image.Image = JpegImageFile(file)
        elif start == b"\x89PNG\r\n\x1a\n":
            image = PngImageFile(file)
        else:
            image = Image.open(file)
        orientation = _orientation(image)
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: far too many pixels ({error}); make the image smaller") from error
    except (OSError, SyntaxError, ValueError, struct.error, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an image, or one with a damaged header; expected JPEG or PNG") from error
    width, height = image.size
    turned = orientation in range(5, 9) and image.format != "TIFF"  # Pillow has turned a TIFF's size itself
    return (width, height) if turned else (height, width)


def _orientation(image: Image.Image) -> object:
    if isinstance(image, PngImageFile):  # its getexif() would decode the pixels
        exif = Image.Exif()
        if "exif" in image.info:
            exif.load(image.info["exif"])
        return exif.get(ORIENTATION)
    return image.getexif().get(ORIENTATION)


def _is_truncated(data: bytes) -> bool:
    """Whether the end that the format asks for is missing."""
    if data.startswith(b"\xff\xd8"):
        return data.find(END_OF_IMAGE, _scan_start(data)) < 0
    if data.startswith(b"\x89PNG"):
        return data.rfind(b"IEND") < 0
    if data.startswith(b"RIFF") and len(data) >= 8:
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    if data.startswith(b"BM") and len(data) >= 6:
        return len(data) < int.from_bytes(data[2:6], "little")
    return False


def _scan_start(data: bytes) -> int:
    """Where a JPEG's compressed pixels begin: behind the thumbnail, which has an end marker of its own."""
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            break  # damaged: the decoder will say so
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:
            return position
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return min(position, len(data))
