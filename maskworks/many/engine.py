"""Ray Data between the rooms: pieces of work -> decoded pictures (tasks) -> rows (an actor for each model) -> parts."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from common.errors import UserError
from maskworks.many import parts
from maskworks.many.finding import Finder, without_pixels
from maskworks.many.photographs import LOST, decoded, photographs
from maskworks.many.sources import Piece

Row = dict[str, Any]
P = TypeVar("P")
ARROW: Any = {"batch_format": "pyarrow"}
BYTES = 32 * 2**20  # decoded pictures that a task gathers before it hands them on


def start(address: str, workers: int, readers: int, memory: float) -> dict[str, int]:
    """Join the cluster at an address, or start one that ends with this process; the CPUs and GPUs that it has."""
    import ray

    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"):
        os.environ.setdefault(name, "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"--address {address}: no cluster answers there ({str(error).splitlines()[0]})") from error
    else:
        room = {"object_store_memory": int(memory * 2**30)} if memory else {}
        ray.init(num_cpus=workers + readers, include_dashboard=False, **room, **quiet)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a large network takes minutes for a batch on a processor
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return {name: int(ray.cluster_resources().get(name, 0)) for name in ("CPU", "GPU")}


def run(pieces: Sequence[Piece], weights: bytes, made_by: Row, gpus: bool, options: Any) -> Iterator[Row]:
    """Do all pieces; says of each part that is written how many photographs it has, and how many were skipped."""
    import pyarrow as pa
    import ray

    size = min(64, max(1, len(pieces) // (16 * options.workers)))
    blocks = (pa.Table.from_pylist([asdict(p) for p in pieces[at : at + size]]) for at in range(0, len(pieces), size))
    tries = ray.remote(num_cpus=0)(Tries).remote()
    actor = (tries, ray.put(weights), made_by["settings"], "cuda" if gpus else "cpu", options.batch_size)
    data = ray.data.from_arrow_refs([ray.put(block) for block in blocks])
    data = data.map_batches(decode, fn_args=(tries, made_by["settings"]), batch_size=None, **ARROW)
    share = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    batch = {"batch_size": 4 * options.batch_size, "concurrency": options.workers, "zero_copy_batch": True}
    data = data.map_batches(Predictor, fn_constructor_args=actor, **batch, **ARROW, **share)
    data = data.map_batches(keep, fn_args=(options.out, made_by), batch_size=options.rows, num_cpus=0.25, **ARROW)
    for written in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from written.to_pylist()


def decode(batch: Any, tries: Any, settings: Row) -> Iterator[Any]:
    """Tables of pieces -> tables of decoded pictures."""
    import pyarrow as pa

    pieces = [Piece(**row) for row in batch.to_pylist()]
    items = (each for piece in pieces for each in photographs(piece))
    rows = carefully(
        tries,
        "read",
        [f"{piece.place} {piece.group}" for piece in pieces],
        items,
        lambda photograph: photograph.path,
        lambda some: (decoded(each, settings["max_pixels"]) for each in some),
        lambda photograph: decoded(photograph._replace(error=LOST), 0),
    )
    kinds = dict.fromkeys(("path", "digest", "error"), pa.string()) | dict.fromkeys(("height", "width"), pa.int32())
    schema = pa.schema(kinds | {"pixels": pa.large_binary()})
    gathered: list[Row] = []
    for row in rows:
        gathered.append(row)
        if sum(len(each["pixels"] or b"") for each in gathered) > BYTES:
            yield pa.Table.from_pylist(gathered, schema)
            gathered = []
    yield pa.Table.from_pylist(gathered, schema)


class Predictor:
    """The model's process."""

    def __init__(self, tries: Any, weights: Any, settings: Row, device: str, at_once: int):
        import ray

        self.tries = tries
        self.finder = Finder(ray.get(weights), settings, device, at_once)

    def __call__(self, batch: Any) -> Any:
        """A table of decoded pictures -> one of rows as they are kept."""
        import pyarrow as pa

        pixels = batch.column("pixels")
        rows = batch.drop_columns("pixels").to_pylist()
        items = [row | {"pixels": value.as_buffer()} for row, value in zip(rows, pixels, strict=True)]
        lost = {"instances": None, "milliseconds": None, "error": LOST}
        found = carefully(
            self.tries,
            "find",
            [row["path"] for row in rows],
            items,
            lambda row: row["path"],
            lambda some: self.finder.rows(list(some)),
            lambda row: without_pixels(row) | lost,
        )
        return pa.Table.from_pylist(list(found), parts.schema())


def keep(batch: Any, target: str, made_by: Row) -> Any:
    """Write a part; what is handed on is a row that counts."""
    import pyarrow as pa

    parts.write(batch, target, made_by)
    errors = Counter(filter(None, batch.column("error").to_pylist()))
    reason = errors.most_common(1)[0][0] if errors else ""
    return pa.table({"photographs": [len(batch)], "skipped": [errors.total()], "reason": [reason]})


class Tries:
    """Says of what is begun how often it was begun before and not ended: then a worker has died with it."""

    def __init__(self) -> None:
        self.begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        self.begun[name] += 1
        return self.begun[name] - 1

    def end(self, name: str) -> None:
        self.begun.pop(name, None)


def carefully(
    tries: Any,
    stage: str,
    names: Sequence[str],
    items: Iterable[P],
    name_of: Callable[[P], str],
    work: Callable[[Iterable[P]], Iterable[Row]],
    lost: Callable[[P], Row],
) -> Iterator[Row]:
    """work(items); where a worker has died with these `names`, each item alone, and lost(item) if one died again."""
    import ray

    together = f"{stage} {hashlib.sha256(' '.join(names).encode()).hexdigest()}"
    if not ray.get(tries.begin.remote(together)):
        yield from work(items)
    else:
        for item in items:
            name = f"{stage} alone {name_of(item)}"
            if ray.get(tries.begin.remote(name)):
                yield lost(item)
                continue
            yield from work([item])
            ray.get(tries.end.remote(name))  # a worker that dies with the next one must not be laid to this
    tries.end.remote(together)
