"""Photographs of a piece of work: read, then decoded as common/data/images.py reads files; a bad one is a reason."""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from common.data.images import IMAGE_SUFFIXES, read_image
from common.data.picture_headers import FILE_BYTES, open_picture
from common.errors import UserError
from maskworks.many.sources import TARS, Piece, patiently, storage

LOST = "a worker died with it twice, the second time alone; perhaps for want of memory"


class Photograph(NamedTuple):
    path: str
    content: bytes | None  # the file's; None: read later, or there is an error
    error: str | None = None


def photographs(piece: Piece) -> Iterator[Photograph]:
    """Those of a piece that aren't done. A single file is read later, by `decoded`."""
    if piece.column:
        yield from of_row_group(piece)
    elif piece.place.lower().endswith(TARS):
        yield from of_tar(piece)
    else:
        yield Photograph(piece.place, None)


def of_tar(piece: Piece) -> Iterator[Photograph]:
    """A WebDataset's pictures, in a single pass; a tar that breaks off says so in a row of its own."""
    system, path = storage(piece.place)
    try:
        with system.open(path, "rb") as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
            for member in archive:
                name = f"{piece.place}#{member.name}"
                wanted = member.isfile() and Path(member.name).suffix.lower() in IMAGE_SUFFIXES
                if wanted and name not in piece.done and (file := archive.extractfile(member)):
                    yield Photograph(name, file.read())
    except (OSError, tarfile.TarError, EOFError) as error:
        if piece.place not in piece.done:
            yield Photograph(piece.place, None, f"the tar cannot be read to its end ({error})")


def of_row_group(piece: Piece) -> Iterator[Photograph]:
    """A column of bytes, or of Hugging Face's {bytes, path}."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, path = storage(piece.place)

    def column() -> Any:
        with system.open(path, "rb") as opened:
            return pq.ParquetFile(opened).read_row_group(piece.group, columns=[piece.column]).column(0)

    try:
        rows = patiently(column)
    except (pa.ArrowException, OSError) as error:
        if (name := f"{piece.place}#{piece.first}") not in piece.done:
            yield Photograph(name, None, f"the row group that begins there cannot be read ({error})")
        return
    for row, value in enumerate(rows, start=piece.first):
        name = f"{piece.place}#{row}"
        if name in piece.done:
            continue
        content = value.as_py()
        content = content.get("bytes") if isinstance(content, dict) else content
        bad = None if isinstance(content, bytes) else f"column {piece.column} holds no bytes there"
        yield Photograph(name, content if bad is None else None, bad)


def decoded(photograph: Photograph, max_pixels: int) -> dict[str, Any]:
    """A photograph as a row for the model: its pixels, or why there are none."""
    path, content, error = photograph
    row: dict[str, Any] = {"path": path, "digest": None, "height": None, "width": None, "pixels": None, "error": error}
    if error:
        return row
    try:
        content = read(path, max_pixels) if content is None else content
        row["digest"] = hashlib.sha256(content).hexdigest()
        with TemporaryDirectory() as folder:  # the rules are for files
            file = Path(folder, "picture")
            file.write_bytes(content)
            try:
                image = read_image(file, max_pixels)
            except UserError as problem:
                return row | {"error": str(problem).replace(f"{file}: ", "").replace(str(file), path)}
    except Exception as problem:  # whatever a file does to a decoder, the others go on
        return row | {"error": in_a_line(problem, path)}
    return row | {"height": image.shape[0], "width": image.shape[1], "pixels": image.tobytes()}


def read(path: str, max_pixels: int) -> bytes:
    """A file's content, of bounded size; storage elsewhere is asked again where it fails."""
    if "://" not in path:
        with open_picture(Path(path), max_pixels) as file:
            return file.read()
    system, inside = storage(path)
    limit = FILE_BYTES * max_pixels
    try:
        content: bytes = patiently(lambda: system.cat_file(inside, start=0, end=limit + 1))
    except FileNotFoundError as error:
        raise UserError("no such image; check the path") from error
    if len(content) > limit:
        raise UserError(f"more than {limit} bytes ({FILE_BYTES} for each of {max_pixels} pixels)")
    return content


def in_a_line(problem: Exception, path: str) -> str:
    said = str(problem).removeprefix(f"{path}: ").splitlines() or [""]
    return said[0] if isinstance(problem, UserError) else f"{type(problem).__name__}: {said[0]}"
