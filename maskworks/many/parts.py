"""TARGET: a folder of Parquet files, a row for each photograph; each file is there whole or not at all."""

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from common.errors import UserError
from maskworks.many.sources import named, patiently, storage

Json = dict[str, Any]
KEY = b"maskworks"  # in the schema's metadata
TOLD = ("versions",)  # of it: noted, but no reason to refuse
READERS = 32  # parts that are looked at at once


def schema(made_by: Json | None = None) -> Any:
    """The columns; `made_by` says with what the rows were found: weights, settings, classes, versions."""
    import pyarrow as pa

    box, size = pa.list_(pa.float32()), pa.list_(pa.int32())
    rle = pa.struct({"size": size, "counts": pa.string()})
    instance = {"class": pa.string(), "score": pa.float32(), "box": box, "rle": rle, "mask_score": pa.float32()}
    columns: Json = {
        "path": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "digest": pa.string(),
        "instances": pa.list_(pa.struct(instance)),
        "milliseconds": pa.float32(),
        "error": pa.string(),
    }
    return pa.schema(columns, metadata={KEY: json.dumps(made_by)} if made_by else None)


def write(rows: Any, target: str, made_by: Json) -> None:
    """A table as a part. Its name follows from its photographs: what is written twice is the same file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = digest(rows.column("path").to_pylist())
    content = pa.BufferOutputStream()
    pq.write_table(rows.cast(schema()).replace_schema_metadata(schema(made_by).metadata), content, compression="zstd")
    system, folder = storage(target)

    def put() -> None:
        unfinished = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.unfinished"
        system.pipe_file(unfinished, content.getvalue().to_pybytes())
        system.mv(unfinished, f"{folder}/part-{name}.parquet")

    system.makedirs(folder, exist_ok=True)
    patiently(put)


def digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]


def finished(target: str, made_by: Json | None = None) -> tuple[set[str], Json | None]:
    """The photographs that have a row, and with what they were found; refused, if that isn't `made_by`.

    A file that isn't whole, or has a row again that another file has, is set aside: its photographs are done anew.
    """
    system, folder = storage(target)
    done: set[str] = set()
    found: Json | None = None
    for path, part in looked_at(system, folder):
        if part is None or not done.isdisjoint(part[1]):
            print(f"{named(system, path)}: {'not whole' if part is None else 'there twice'}; set aside and done anew")
            system.mv(path, f"{path}.aside")
            continue
        found = part[0]
        refuse_other(target, found, made_by or found)
        done.update(part[1])
    return done, found


def looked_at(system: Any, folder: str) -> Iterator[tuple[str, tuple[Json, list[str]] | None]]:
    """Each part with its metadata and photographs, None for a torn one; what a killed run was writing is removed."""
    system.invalidate_cache()
    if not system.isdir(folder):
        return
    names = sorted(system.ls(folder, detail=False))
    for name in names:
        if name.endswith(".unfinished"):
            system.rm(name)
    parts = [name for name in names if name.endswith(".parquet")]
    with ThreadPoolExecutor(READERS) as readers:
        yield from zip(parts, readers.map(lambda path: contents(system, path), parts), strict=True)


def contents(system: Any, path: str) -> tuple[Json, list[str]] | None:
    """A part's metadata and photographs; None if the file isn't whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read() -> tuple[bytes | None, Any]:
        with system.open(path, "rb") as opened:
            file = pq.ParquetFile(opened)
            return (file.schema_arrow.metadata or {}).get(KEY), file.read(columns=["path"]).column(0)

    try:
        made_by, paths = patiently(read)
    except (pa.ArrowException, OSError):
        return None
    if made_by is not None:
        return json.loads(made_by), paths.to_pylist()
    raise UserError(f"{named(system, path)}: a Parquet file that predict-many has not written; name another --out")


def refuse_other(target: str, there: Json, wanted: Json) -> None:
    for name in [name for name in wanted if name not in TOLD and there.get(name) != wanted[name]]:
        was, now = (json.dumps(each.get(name)) for each in (there, wanted))
        raise UserError(f"{target} was made with other {name} ({was:.80}, not {now:.80}); name another --out")
