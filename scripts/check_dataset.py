"""The doctor of COCO-format data: names every fault before a training starts, with what to do about it.

    python scripts/check_dataset.py FILE                  the annotation file alone
    python scripts/check_dataset.py FILE --images DIR     and its images: missing, damaged, of another size

Exit status: 0 nothing found, 1 faults found, 2 the file cannot be used at all.
"""

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.annotation_checks import (
    check_classes,
    check_drawing,
    check_files,
    check_pictures,
    read_annotations,
)
from common.annotation_files import Annotations, Fault, Severity
from common.errors import UserError

SEVERITIES: dict[Severity, str] = {"fatal": "stops training", "dropped": "left out", "noted": "note"}


@dataclass
class Settings:
    file: Annotated[Path, tyro.conf.Positional]  # annotations in COCO format
    images: Path | None = None  # the folder that file_name starts from
    show: int = 20  # faults of one kind to name one by one; the others are counted (0: all)


def main(settings: Settings) -> int:
    try:
        annotations, faults = examine(settings.file, settings.images)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 200)
    if faults:
        console.print(table(settings.file, faults, settings.show or len(faults)))
    console.print(escape(summary(settings.file, annotations, faults)), soft_wrap=True)
    return 1 if faults else 0


def examine(file: Path, images: Path | None) -> tuple[Annotations, list[Fault]]:
    """Everything that the loader checks, and what takes too long to be checked at every start."""
    annotations, faults = read_annotations(file)
    faults += check_drawing(annotations) + check_classes(annotations)
    if images:
        faults += check_files(images, annotations.image_ids.tolist(), annotations.file_names)
        faults += check_pictures(images, annotations)
    order = list(SEVERITIES)
    return annotations, sorted(faults, key=lambda fault: (order.index(fault.severity), fault.kind))


def table(file: Path, faults: list[Fault], show: int) -> Table:
    result = Table(title=escape(str(file)))
    for heading in ("fault", "count", "effect", "where", "what is wrong", "what to do"):
        result.add_column(heading, overflow="fold", justify="right" if heading == "count" else "left")
    counts = Counter((fault.severity, fault.kind) for fault in faults)
    for (severity, kind), count in counts.items():
        result.add_section()
        own = [fault for fault in faults if (fault.severity, fault.kind) == (severity, kind)]
        start = (kind, str(count), SEVERITIES[severity])
        for fault in own[:show]:
            result.add_row(*start, escape(fault.where), escape(fault.problem), escape(fault.remedy))
            start = ("", "", "")
        if count > show:
            result.add_row(*start, f"... and {count - show} more", "", "--show 0 names all")
    return result


def summary(file: Path, annotations: Annotations, faults: list[Fault]) -> str:
    empty = len(annotations.image_ids) - len(np.unique(annotations.image_index[annotations.image_index >= 0]))
    content = (
        f"{len(annotations.image_ids)} images ({empty} without annotations), "
        f"{len(annotations.ids)} annotations, {len(annotations.categories)} classes"
    )
    counts = Counter(fault.severity for fault in faults)
    found = ", ".join(f"{counts[key]} {meaning}" for key, meaning in SEVERITIES.items() if counts[key])
    return f"{file}: {content}; " + (f"{len(faults)} faults: {found}" if faults else "no faults")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
