"""What a picture's header says, before a pixel is decoded: its size, and what isn't plain 8-bit RGB about it."""

import io
import stat
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from common.data import shards
from common.errors import UserError

ORIENTATION = 0x0112  # the Exif tag; 5 to 8 are turned by a quarter
BITS, PHOTOMETRIC = 258, 262  # TIFF's tags; white may be 0
FILE_BYTES = 8  # for each pixel: four values of 16 bits, not compressed
DEEP = "hold more than 8 bits"
SEE_THROUGH = "may be partly transparent"


@dataclass(frozen=True)
class Header:
    height: int  # as decoded: turned where Exif says so
    width: int
    kinds: tuple[str, ...]  # what isn't plain about it
    white_is_zero: bool  # only looked at where it is deep: decoders turn pictures of 8 bits round


def open_picture(path: Path, max_pixels: int) -> BinaryIO:
    """A file of bounded size, or what a shard holds: a pipe would be waited for, a device fill the memory."""
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise UserError(f"{path}: a pipe or a device; expected an image file")
        if status.st_size > FILE_BYTES * max_pixels:
            raise UserError(
                f"{path}: {status.st_size} bytes, the limit is {FILE_BYTES * max_pixels} ({FILE_BYTES} for each of "
                f"{max_pixels} pixels); cut it into parts or raise the limit"
            )
        return path.open("rb")
    except FileNotFoundError as error:
        if (content := shards.read(path, FILE_BYTES * max_pixels)) is not None:
            return io.BytesIO(content)
        raise UserError(f"{path}: no such image; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); expected an image file") from error


def read_header(file: BinaryIO, path: Path) -> Header:
    try:
        image = open_by_class(file, path)
        orientation = _orientation(image)
        kinds = tuple(_kinds(image, orientation))
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: far too many pixels ({error}); make the image smaller") from error
    except (OSError, SyntaxError, ValueError, struct.error, IndexError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not an image, or one with a damaged header; expected JPEG or PNG") from error
    width, height = image.size
    # Pillow has turned a TIFF's size itself
    turned = orientation in range(5, 9) and not isinstance(image, TiffImageFile)
    white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0
    return Header(*((width, height) if turned else (height, width)), kinds, white_is_zero)


def open_by_class(file: BinaryIO, path: Path) -> Image.Image:
    """By their own classes, JPEG and PNG are free of Pillow's global limit: the caller's holds."""
    start = file.read(8)
    file.seek(0)
    if not start:
        raise UserError(f"{path}: the file is empty (0 bytes); copy or download it again")
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImageFile(file)
    if start == b"\x89PNG\r\n\x1a\n":
        return PngImageFile(file)
    try:
        return Image.open(file)
    except UnidentifiedImageError as error:
        if start[:4] not in {b"II*\0", b"MM\0*"}:
            raise
        wanted = "expected one of grey or colours, of 8 or 16 bits, or grey in floating point"
        raise UserError(f"{path}: damaged, or not a kind of TIFF that is read; {wanted}") from error


def _kinds(image: Image.Image, orientation: object) -> Iterable[str]:
    if image.mode[0] in "IF" or _bits(image) > 8:
        yield DEEP
    if is_see_through(image):
        yield SEE_THROUGH
    if image.mode[0] in "1LIF" and image.mode != "LAB":
        yield "are grey"
    if image.mode[0] == "P":
        yield "have a palette"
    if image.mode == "CMYK":
        yield "are CMYK"
    if orientation in range(2, 9):
        yield "are turned by Exif"
    if isinstance(image, TiffImageFile) and image.n_frames > 1:
        yield "have several pages"


def is_see_through(image: Image.Image) -> bool:
    return image.mode in {"RGBA", "LA", "PA", "RGBa", "La"} or "transparency" in image.info


def _bits(image: Image.Image) -> int:
    """Of each value in the file; Pillow's mode doesn't say it of colours."""
    if isinstance(image, PngImageFile):
        return 16 if any(str(tile[3]).endswith(";16B") for tile in image.tile) else 8
    return max(image.tag_v2.get(BITS, (8,))) if isinstance(image, TiffImageFile) else 8


def _orientation(image: Image.Image) -> object:
    if isinstance(image, PngImageFile):  # its getexif() would decode the pixels
        exif = Image.Exif()
        if "exif" in image.info:
            exif.load(image.info["exif"])
        return exif.get(ORIENTATION)
    return image.getexif().get(ORIENTATION)
