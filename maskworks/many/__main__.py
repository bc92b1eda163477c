"""Predict very many photographs: maskworks predict-many SOURCE --weights FILE --out TARGET."""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from common.errors import UserError, needing
from common.run.ranges import Count, NotNegative, Positive, Share, Whole
from maskworks import __version__, command_line
from maskworks.__main__ import package_of
from maskworks.command_line import program
from maskworks.many import engine, finding, parts, sources
from maskworks.prediction.command import fingerprint
from maskworks.published.names import local_file

SECONDS_BETWEEN_LINES = 10


@dataclass
class PredictMany:
    """Find the objects in very many photographs."""

    source: Annotated[str, tyro.conf.Positional]
    """A folder, a glob, a list of names (.txt), Parquet or WebDataset tars; a path, or a URL as s3://bucket/folder."""
    weights: str
    """A checkpoint: a file, or the name of a published one."""
    out: str
    """Folder of Parquet files, a path or a URL; the same command goes on where it was stopped."""
    column: str = ""
    """Of Parquet files: the paths, or the pictures' bytes; else image, bytes, path, url, file_name or file."""
    threshold: Share = 0.0
    """Instances with a lower score are left out."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPUs, where there are some."""
    workers: Whole = 0
    """Processes with a model; 0: one for each GPU, or one on a processor."""
    readers: Count = 1
    """Processes that read and decode, of a cluster that is started here."""
    batch_size: Whole = 0
    """Pictures that go through the network together; 0: 8 on a GPU, else 1, with the same bits in any company."""
    rows: Count = 500
    """Photographs in a Parquet file; those of unfinished files are what a kill costs."""
    max_megapixels: Positive = 100.0
    """Larger photographs are skipped before they are decoded."""
    address: str = ""
    """A Ray cluster to join, auto or ray://HOST:10001; without it one starts here and ends with the command."""
    store_gigabytes: NotNegative = 0.0
    """Memory for pictures on their way between processes, of a cluster that is started here; 0: as Ray has it."""


def main() -> None:
    options = command_line.read(PredictMany, "maskworks predict-many")
    with needing("maskworks predict-many", "'maskworks[ray]'"):
        import pyarrow  # noqa: F401
        import ray.data
    package, file = package_of(options.weights)
    weights = local_file(file)
    made_by = described(package, weights, options)
    done, _ = parts.finished(options.out, made_by)
    there, left_out = len(done), list[str]()
    pieces = list(sources.pieces(options.source, options.column, options.out, done, left_out))
    archives = sum(bool(piece.column) or piece.place.lower().endswith(sources.TARS) for piece in pieces)
    print(f"{len(pieces) - archives} photographs and {archives} archives to do; {there} have a row in {options.out}")
    if left_out:
        print(f"{len(left_out)} files are no pictures and left out, {left_out[0]} first")
    if not pieces:
        return
    try:
        gpus = start(options)
        count, skipped, reason = told(engine.run(pieces, weights.read_bytes(), made_by, gpus, options))
    except KeyboardInterrupt:
        raise UserError("interrupted; the same command goes on") from None
    finally:
        ray.shutdown()
    print(f"{count} photographs done, {skipped} of them skipped{f' (first: {reason})' if skipped else ''}")
    if skipped == count and not there:
        raise UserError(f"none of the photographs could be read; {options.out} says of each why")


def described(package: str, weights: Path, options: PredictMany) -> dict[str, Any]:
    """What the rows depend on, for the metadata of the files; refuses a model whose answers have no place in them."""
    return {
        "package": package,
        "weights": fingerprint(weights),
        "classes": finding.refuse_others(weights),
        "settings": {
            "threshold": options.threshold,
            "precision": options.precision,
            "max_pixels": int(options.max_megapixels * 1e6),
        },
        "versions": {"maskworks": __version__} | {name: version(name) for name in ("torch", "ray", "pyarrow")},
    }


def start(options: PredictMany) -> bool:
    """Ray, and the numbers that follow from what it has; whether there are GPUs."""
    workers = options.workers or torch.cuda.device_count() or 1
    found = engine.start(options.address, workers, options.readers, options.store_gigabytes)
    gpus = options.device == "cuda" or (options.device == "auto" and found["GPU"] > 0)
    options.workers = options.workers or (found["GPU"] if gpus else 1) or 1
    options.batch_size = options.batch_size or (8 if gpus else 1)
    kind, room = ("GPU", found["GPU"]) if gpus else ("CPU", found["CPU"] - 1)  # one is left to read
    if options.workers > room:
        raise UserError(f"--workers {options.workers}: the cluster has {found[kind]} of {kind}; at most {room} workers")
    return gpus


def told(written: Iterable[dict[str, Any]]) -> tuple[int, int, str]:
    """Say now and then how far it is; how many photographs were done and skipped, and why the first was."""
    count, skipped, reason = 0, 0, ""
    begun = said = time.monotonic()
    for part in written:
        count, skipped, reason = count + part["photographs"], skipped + part["skipped"], reason or part["reason"]
        if (now := time.monotonic()) - said > SECONDS_BETWEEN_LINES:
            said = now
            print(f"{count} done, {skipped} skipped, {count / (now - begun):.1f} each second", file=sys.stderr)
    return count, skipped, reason


if __name__ == "__main__":
    program.run(main)
