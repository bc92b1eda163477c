"""Images and videos: decoded and resized by OpenCV, bit for bit as the originals do.

- What isn't plain RGB of 8 bits is read as it is meant; picture_headers.py says what that is.
- The size is read from the header first: a file that claims too many pixels is never decoded.
- OpenCV decodes some truncated files without a word; here they are an error.
"""

import io
from collections.abc import Iterator, Sequence
from glob import glob
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from common.data.picture_headers import (
    DEEP,
    SEE_THROUGH,
    Header,
    is_see_through,
    open_by_class,
    open_picture,
    read_header,
)
from common.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg"})
MAX_PIXELS = 100_000_000
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras have; a picture of 12 lies in a file of 16
END_OF_IMAGE = b"\xff\xd9"


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """RGB [H, W, 3]. Pictures of 8 bits as cv2.imread decodes them, Exif orientation applied.

    Values of more bits are scaled by the bits that the brightest one needs, what is transparent is laid on white.
    """
    path = Path(path)
    data, header = _checked(path, max_pixels)
    deep = DEEP in header.kinds
    image = _scaled(_whole_numbers(data, path), header.white_is_zero) if deep else _decoded(data, path)
    return _laid_on_white(image, data, path, deep) if SEE_THROUGH in header.kinds else image


def read_ids(path: Path) -> NDArray[np.int64]:
    """[H, W] the segment of each pixel of a panoptic PNG, R + 256 G + 65536 B; 0 is none."""
    path = Path(path)
    colours = _decoded(_checked(path, MAX_PIXELS)[0], path)
    ids: NDArray[np.int64] = colours.astype(np.int64) @ np.array([1, 256, 65536])
    return ids


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) as read_image will return it, from the header alone."""
    path = Path(path)
    with open_picture(path, MAX_PIXELS) as file:
        header = read_header(file, path)
    return header.height, header.width


def depth_of(path: Path, max_pixels: int) -> int:
    """The bits that the brightest value of a picture of more than 8 needs."""
    return _depth(_whole_numbers(_checked(path, max_pixels)[0], path))


def _checked(path: Path, max_pixels: int) -> tuple[bytes, Header]:
    """A file's content and what its header says, if it is whole and within the limits."""
    with open_picture(path, max_pixels) as file:
        data = file.read()
    if _is_truncated(data):
        raise UserError(f"{path}: the file is truncated (its end is missing); copy or download it again")
    header = read_header(io.BytesIO(data), path)
    pixels = header.height * header.width
    if pixels > max_pixels:
        raise UserError(
            f"{path}: {header.width} x {header.height} = {pixels} pixels, the limit is {max_pixels}; "
            "make the image smaller or raise the limit"
        )
    return data, header


def _decoded(data: bytes, path: Path, flags: int = cv2.IMREAD_COLOR) -> NDArray[Any]:
    """As OpenCV decodes it, but in the order RGB."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UserError(f"{path}: OpenCV cannot decode it ({error.err}); save it again as JPEG or PNG") from error
    if image is None:
        raise UserError(f"{path}: the image is damaged and cannot be decoded; copy or download it again")
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    return np.asarray(cv2.cvtColor(image[:, :, :3], cv2.COLOR_BGR2RGB))


def _scaled(values: NDArray[Any], white_is_zero: bool) -> NDArray[np.uint8]:
    """The largest number of the bits that a picture needs becomes 255."""
    white = 2 ** _depth(values) - 1
    table = np.rint(np.arange(white + 1) * (255 / white)).astype(np.uint8)
    scaled: NDArray[np.uint8] = (255 - table if white_is_zero else table)[values]
    return scaled


def _depth(values: NDArray[Any]) -> int:
    """The bits that the brightest value needs; they tell cameras apart whose pictures all lie in files of 16."""
    return next(bits for bits in DEPTHS if values.max(initial=0) < 2**bits)


def _whole_numbers(data: bytes, path: Path) -> NDArray[np.uint16]:
    """The values [H, W, 3] of a picture of more than 8 bits; fractions are of 65535."""
    png = data.startswith(b"\x89PNG")
    values = _decoded(data, path, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR if png else cv2.IMREAD_UNCHANGED)
    return _of_16_bits(values, path)


def _of_16_bits(values: NDArray[Any], path: Path | None) -> NDArray[np.uint16]:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if not 0 <= low <= high < 2**16:  # NaN neither
        raise UserError(
            f"{path or 'a picture'}: its values go from {low:g} to {high:g}; expected 0 to 1, or 0 to 65535"
        )
    if values.dtype.kind == "f":
        values = np.rint(values * (2**16 - 1) if high <= 1 else values)
    return values.astype(np.uint16)


def _laid_on_white(image: NDArray[np.uint8], data: bytes, path: Path, deep: bool) -> NDArray[np.uint8]:
    """What is transparent shows white, as on paper, and not the colours that a program left under it."""
    try:
        layers = np.asarray(ImageOps.exif_transpose(open_by_class(io.BytesIO(data), path)).convert("RGBA"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the image is damaged ({error}); copy or download it again") from error
    colours = image if deep else layers[:, :, :3]  # OpenCV has darkened a TIFF's already
    return on_white(colours, layers[:, :, 3:], image)


def on_white(
    colours: NDArray[np.uint8], opacity: NDArray[np.uint8], opaque: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Colours [H, W, 3] seen through their opacity [H, W, 1]; `opaque`, or they, where that is the same everywhere."""
    if opacity.min() == opacity.max():  # all of it opaque, or a channel that nobody filled
        return colours if opaque is None else opaque
    part = opacity.astype(np.float32) / 255
    return np.rint(colours * part + 255 * (1 - part)).astype(np.uint8)


def from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of a picture in memory, by the rules for files."""
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":  # of more than 8 bits
        grey = _scaled(_of_16_bits(np.asarray(image), None), white_is_zero=False)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if not is_see_through(image):
        return np.asarray(image.convert("RGB"), np.uint8)
    layers = np.asarray(image.convert("RGBA"), np.uint8)
    return on_white(layers[:, :, :3], layers[:, :, 3:])


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
    capture = open_video(path)
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


def open_video(path: str | Path) -> cv2.VideoCapture:
    if not Path(path).is_file():
        raise UserError(f"{path}: no such video; check the path")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise UserError(f"{path}: not a video that OpenCV can read; convert it to MP4")
    return capture


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
