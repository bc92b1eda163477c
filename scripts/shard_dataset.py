"""A COCO-format data set as shards: python scripts/shard_dataset.py DIR --annotations FILE... --out FOLDER_OR_URL

The pictures go into plain tars (WebDataset's kind of shard), shards.sqlite says where in which each lies, and the
annotation files are copied beside them. --data.train.images FOLDER_OR_URL --data.train.annotations FILE train on it:
the same weights as from the loose files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from maskworks.command_line import program
from maskworks.shards import writing


@dataclass
class Shard:
    """Write a data set as tars with an index."""

    images: Annotated[Path, tyro.conf.Positional]
    """The folder that the file names in the annotations start from."""
    annotations: list[Path]
    """COCO-format, panoptic and PSG files, with their PNGs: a picture that several name is written once."""
    out: str
    """A folder, or any of fsspec's URLs (s3://, gs://, az://, with its library installed)."""
    megabytes: float = 200.0
    """Of each tar."""


def main() -> None:
    options = tyro.cli(Shard, prog="shard_dataset.py", description=__doc__)
    pictures, tars = writing.write(options.images, options.annotations, options.out.rstrip("/"), options.megabytes)
    print(f"{options.out}: {pictures} pictures in {tars} tars; images and annotations of a training may be named there")


if __name__ == "__main__":
    program.run(main)
