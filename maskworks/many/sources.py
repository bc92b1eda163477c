"""What SOURCE names, on this disk or at any of fsspec's URLs, as pieces of work: photographs, tars, row groups."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from common.data.images import IMAGE_SUFFIXES
from common.errors import UserError

TARS = (".tar", ".tar.gz", ".tgz")
COLUMNS = ("image", "bytes", "path", "url", "file_name", "file")  # that are taken for the photographs' without --column
TRIES = 4  # of a call to storage, with waits of 0.5, 1 and 2 seconds between
T = TypeVar("T")


@dataclass
class Piece:
    """What one task reads: a photograph, a tar, or a row group of a Parquet file that holds pictures."""

    place: str
    column: str = ""  # of a Parquet file
    group: int = 0  # and its row group,
    first: int = 0  # which begins with this row
    done: list[str] = field(default_factory=list)  # photographs in it that need nothing more


def storage(place: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path there."""
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:  # a library for that kind of URL is missing, or nobody knows the kind
        raise UserError(f"{place}: {error}") from error
    return system, path


def patiently(call: Callable[[], T]) -> T:
    """What storage answers, which is asked again where it fails; what isn't there is not waited for."""
    for wait in [0.5 * 2**attempt for attempt in range(TRIES - 1)]:
        try:
            return call()
        except (FileNotFoundError, UserError):
            raise
        except Exception:  # each storage has errors of its own
            time.sleep(wait)
    return call()


def named(system: Any, path: str) -> str:
    """A path on this disk, or a URL elsewhere."""
    return path if "file" in system.protocol else str(system.unstrip_protocol(path))


def pieces(source: str, column: str, target: str, done: set[str], left_out: list[str]) -> Iterator[Piece]:
    """All that is to do, in the order of the names, each photograph once; `done` grows by what is listed.

    `left_out` gets the files that are no pictures; what lies under `target` is none of the source.
    """
    own = f"{named(*storage(target)).rstrip('/')}/"
    archives: set[str] = set()
    within: dict[str, list[str]] | None = None  # an archive -> what is done in it
    for place in listed(source):
        ending = place.lower()
        if place.startswith(own) or place in archives:
            continue
        if ending.endswith((*TARS, ".parquet")):
            archives.add(place)
        if ending.endswith(TARS):
            within = within if within is not None else grouped(done)
            yield Piece(place, done=within.get(place, []))
        elif ending.endswith(".parquet"):
            yield from of_parquet(place, column, done)
        elif not ending.endswith(tuple(IMAGE_SUFFIXES)):
            left_out.append(place)
        elif place not in done:
            done.add(place)
            yield Piece(place)


def grouped(done: set[str]) -> dict[str, list[str]]:
    """By the archive that they lie in; what is said of a whole archive is among them."""
    found: dict[str, list[str]] = {}
    for name in sorted(done):
        found.setdefault(name.rpartition("#")[0] or name, []).append(name)
    return found


def listed(source: str) -> Iterator[str]:
    """The files that a file, a folder, a glob or a list of names stands for."""
    system, path = storage(source)
    if system.isfile(path):
        found = [path]
    elif system.isdir(path):
        found = sorted(system.find(path))
    else:
        found = sorted(each for each in system.glob(path) if system.isfile(each)) if "*" in path or "?" in path else []
    if not found:
        raise UserError(f"{source}: no file there; expected a folder, a glob, a list (.txt), .parquet or .tar files")
    if found == [path] and path.lower().endswith(".txt"):
        with system.open(path, "rt", encoding="utf-8") as lines:
            yield from (beside(named(system, path), name) for line in lines if (name := line.strip()))
    else:
        yield from (named(system, each) for each in found)


def beside(place: str, name: str) -> str:
    """A name in a list or a column: a URL, a whole path, or one that starts where the file lies that names it."""
    if "://" in name or Path(name).is_absolute():
        return name
    folder = place.rpartition("/")[0] if "://" in place else str(Path(place).parent)
    return f"{folder}/{name}"


def of_parquet(place: str, column: str, done: set[str]) -> Iterator[Piece]:
    """A column of paths is a list of photographs; one of pictures is read where it lies, a row group at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, path = storage(place)
    with system.open(path, "rb") as opened:
        try:
            file = pq.ParquetFile(opened)
        except pa.ArrowException as error:
            raise UserError(f"{place}: not a whole Parquet file ({error}); write it again") from error
        name = column or next((each for each in COLUMNS if each in file.schema_arrow.names), "")
        if name not in file.schema_arrow.names:
            there = ", ".join(file.schema_arrow.names)
            raise UserError(f"{place}: no column {name or 'of ' + ', '.join(COLUMNS)}; --column names one of {there}")
        kind = file.schema_arrow.field(name).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            for batch in file.iter_batches(columns=[name]):
                for each in filter(None, batch.column(0).to_pylist()):
                    if (photograph := beside(place, each)) not in done:
                        done.add(photograph)
                        yield Piece(photograph)
        else:
            yield from row_groups(place, name, file.metadata, lambda row: f"{place}#{row}" in done)


def row_groups(place: str, column: str, metadata: Any, is_done: Callable[[int], bool]) -> Iterator[Piece]:
    first = 0
    for group in range(metadata.num_row_groups):
        rows = range(first, first + metadata.row_group(group).num_rows)
        begun = [f"{place}#{row}" for row in rows if is_done(row)]
        if len(begun) < len(rows):
            yield Piece(place, column, group, first, begun)
        first += len(rows)
