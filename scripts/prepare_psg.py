"""Prepare PSG (panoptic scene graphs) for training: the competition's files -> the files that refinemask_psg reads.

    python scripts/prepare_psg.py psg_train_val.json --val-test psg_val_test.json \\
        --instances coco/annotations/instances_val2017.json --out datasets/psg

Writes psg_tra.json and psg_val.json (COCO's panoptic format with relations), and with --instances
instances_val2017_coco80.json and psg_instance_val.json (boxes and masks of the validation images).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tyro

from common.errors import UserError
from common.files import write_text
from common.run import commands
from common.run.runlog import Bar
from refinemask_psg.psg.files import (
    Progress,
    PsgFile,
    decode,
    panoptic_file,
    psg_instances,
    read_bytes,
    read_psg,
    read_test,
    with_80_classes,
)


@dataclass
class Prepare:
    """Prepare PSG for training."""

    train_val: Annotated[Path, tyro.conf.Positional]
    """psg_train_val.json, or the full release psg.json."""
    val_test: Path | None = None
    """psg_val_test.json: checked to hold the validation images too."""
    instances: Path | None = None
    """COCO's instances_val2017.json, for box and mask AP."""
    out: Path = Path("datasets/psg")
    """Folder to write to."""
    original_faults: bool = False
    """Make trucks stuff and call them " truck", as the original does."""


def main() -> None:
    prepare(tyro.cli(Prepare, prog="prepare_psg.py", description=__doc__))


def prepare(options: Prepare) -> None:
    """Everything is read and checked before the first file is written."""
    psg = read_psg(options.train_val, watched(options.train_val))
    training, validation = psg.split()
    if options.val_test:
        check_test(options.val_test, psg)
    files: dict[str, Any] = {
        "psg_tra.json": panoptic_file(psg, training, options.original_faults),
        "psg_val.json": panoptic_file(psg, validation, options.original_faults),
    }
    if options.instances:
        expected = "COCO's instances_val2017.json"
        found = decode(read_bytes(options.instances), dict[str, Any], str(options.instances), expected)
        coco = with_80_classes(found, options.instances)
        files["instances_val2017_coco80.json"] = coco
        files["psg_instance_val.json"] = psg_instances(coco, validation)
    options.out.mkdir(parents=True, exist_ok=True)
    with Bar("writing", len(files)) as bar:
        for name, content in files.items():
            write_text(options.out / name, msgspec.json.format(msgspec.json.encode(content), indent=4).decode())
            bar.advance()
    print(f"{len(training)} images to train on, {len(validation)} to validate; written: {options.out.resolve()}")


def watched(path: Path) -> Progress:
    """Shows how many of the file's entries are read."""

    def go_by(entries: list[msgspec.Raw]) -> Iterator[msgspec.Raw]:
        with Bar(f"reading {path.name}", len(entries)) as bar:
            for entry in entries:
                yield entry
                bar.advance()

    return go_by


def check_test(path: Path, psg: PsgFile) -> None:
    """Whether the two files belong together: they share the validation images."""
    known = {entry.image_id for entry in read_test(path, watched(path))}
    for entry in psg.split()[1]:
        if entry.image_id not in known:
            raise UserError(
                f"{path}: no entry for the validation image {entry.image_id} ({entry.file_name}); "
                "use the psg_val_test.json of the same release"
            )


if __name__ == "__main__":
    commands.run(main)
