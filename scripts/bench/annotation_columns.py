"""Large annotation files: seconds to open, memory that each training process and loader worker has of its own.

python scripts/bench/annotation_columns.py                          10^4, 10^5 and 10^6 made-up boxes
python scripts/bench/annotation_columns.py --annotations 10000000    needs 2 GB of disk and 6 of memory
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tyro
from annotation_loading import growth_of_a_worker, private
from rich.console import Console
from rich.table import Table

from common.data.annotation_checks import Inventory
from common.data.coco import CocoDataset
from maskworks.shards.columns import kept

EACH = 8  # annotations of an image
WAYS = {"JSON": "inf", "first time": "0", "columns": "0"}  # MASKWORKS_COLUMNS_MEGABYTES


@dataclass
class Settings:
    annotations: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    measure: Path | None = None  # internal: open this file in this process and print JSON


def main(settings: Settings) -> None:
    if settings.measure:
        print(json.dumps(measure(settings.measure)))
        return
    table = Table("annotations", "MB of JSON", "", "seconds", "MB of its own", "MB a worker adds")
    for count in settings.annotations:
        with TemporaryDirectory() as name:
            file = Path(name, "boxes.json")
            generate(file, count)
            for way, least in WAYS.items():
                environment = os.environ | {"MASKWORKS_CACHE": name, "MASKWORKS_COLUMNS_MEGABYTES": least}
                command = [sys.executable, __file__, "--measure", str(file)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                row = json.loads(done.stdout.splitlines()[-1])
                table.add_row(f"{count:,}", f"{file.stat().st_size / 2**20:.0f}", way, *(f"{x:.1f}" for x in row))
    Console().print(table)


def generate(file: Path, count: int) -> None:
    """Boxes in no order, as of Objects365, written as they are drawn."""
    rng, images = np.random.default_rng(0), max(1, count // EACH)
    with file.open("w", encoding="utf-8") as out:
        out.write('{"categories": [{"id": 1, "name": "a"}], "images": [')
        size = '"width": 640, "height": 480'
        out.write(", ".join(f'{{"id": {i}, "file_name": "{i:012}.jpg", {size}}}' for i in range(images)))
        out.write('], "annotations": [')
        for first in range(0, count, 100_000):
            owners = rng.integers(0, images, min(100_000, count - first)).tolist()
            corners = rng.integers(0, 400, (len(owners), 2)).tolist()
            out.writelines(
                f"{', ' if first + at else ''}"
                f'{{"id": {first + at + 1}, "image_id": {owner}, "category_id": 1, "iscrowd": 0, '
                f'"area": 2400, "bbox": [{x}.25, {y}.5, 60, 40]}}'
                for at, (owner, (x, y)) in enumerate(zip(owners, corners, strict=True))
            )
        out.write("]}")


def measure(file: Path) -> tuple[float, float, float]:
    """Opened, with the files' names checked against a folder that is made up."""
    Inventory._plain_files = lambda self, name: Everything()  # type: ignore[assignment,method-assign,return-value]
    before, start = private(), time.monotonic()
    dataset = CocoDataset([file.parent], [file], read=kept)
    seconds = time.monotonic() - start

    def read_all() -> int:
        return sum(len(dataset.boxes[dataset.offsets[i] : dataset.offsets[i + 1]].copy()) for i in range(len(dataset)))

    return seconds, private() - before, growth_of_a_worker(read_all)


class Everything(frozenset[str]):
    def __contains__(self, _: object) -> bool:
        return True


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
