"""The columns of a large annotation file, kept in the user's cache and mapped into memory: made once, shared by all.

A file is known by its digest. Only usable annotations are kept, those of an image side by side.
"""

import logging
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import msgspec
import numpy as np

from common.data.annotation_files import Annotations, CategoryEntry
from common.data.coco import Reader, read_usable
from common.errors import UserError
from common.files import digest_of, user_cache

LEAST = "MASKWORKS_COLUMNS_MEGABYTES"  # of a file whose columns are kept
FORMAT = "columns-v1"  # in the folder's name; count up when anything that is written, or a check, changes
log = logging.getLogger(__name__)


class Named(msgspec.Struct):
    categories: list[CategoryEntry]
    file_names: list[str]
    left_out: str


def kept(path: Path, read: Reader = read_usable) -> tuple[Annotations, str]:
    """What `read` makes of a file, and what it left out; of a large file from the cache, once it is there."""
    try:
        if not path.is_file() or path.stat().st_size < float(os.environ.get(LEAST, "200")) * 1e6:
            return read(path)
    except ValueError as error:
        raise UserError(f"{LEAST}={os.environ.get(LEAST)}: expected a number of megabytes, inf for none") from error
    place = user_cache() / "annotations" / f"{FORMAT}-{digest_of(path)[:24]}"
    place.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock  # only where there is such a file

    with FileLock(f"{place}.lock"):  # several processes ask at once, and one of them reads
        if not place.is_dir():
            write(*read(path), place)
            log.warning("%s: its columns are kept in %s", path, place)
    return opened(place)


def write(a: Annotations, left_out: str, place: Path) -> None:
    """Into a folder beside it, which is renamed when it is complete."""
    chosen = np.flatnonzero(a.usable)
    chosen = chosen[np.argsort(a.image_index[chosen], kind="stable")]
    begins = np.concatenate([[0], a.text_ends])[chosen]
    ends = a.text_ends[chosen]
    draft = Path(mkdtemp(dir=place.parent, prefix="."))
    try:
        with (draft / "text.bin").open("wb") as file:
            file.writelines(a.text[begin:end].data for begin, end in zip(begins, ends, strict=True))
        named = Named(a.categories, a.file_names, left_out)
        (draft / "named.json").write_bytes(msgspec.json.encode(named))
        for name in ("image_ids", "sizes"):
            np.save(draft / f"{name}.npy", getattr(a, name))
        for name in ("ids", "image_index", "labels", "boxes", "areas", "crowd", "kinds", "keypoints", "usable"):
            if (column := getattr(a, name)) is not None:
                np.save(draft / f"{name}.npy", column[chosen])
        np.save(draft / "text_ends.npy", np.cumsum(ends - begins))
        draft.rename(place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def opened(place: Path) -> tuple[Annotations, str]:
    named = msgspec.json.decode((place / "named.json").read_bytes(), type=Named)
    text = place / "text.bin"
    mapped = np.memmap(text, np.uint8, "r") if text.stat().st_size else np.zeros(0, np.uint8)
    columns: dict[str, Any] = {"keypoints": None}
    columns |= {file.stem: np.load(file, mmap_mode="r") for file in place.glob("*.npy")}
    return Annotations(named.categories, file_names=named.file_names, text=mapped, **columns), named.left_out
