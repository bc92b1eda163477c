"""A published score beside the one reached here: python scripts/reproduce.py solov2:r50_3x [--table solov2/README.md].

Fetches the published weights and COCO's val2017 (1 GB), where they aren't named, and evaluates with the package's own
eval.py, with the settings that came with the weights.
"""

import json
import shutil
import sys
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # scripts are not installed

from common.errors import UserError
from common.files import user_cache, write_text
from maskworks.command_line import program
from maskworks.published.download import fetch
from maskworks.published.names import Published, entry_of, place_of
from scripts.readme_table import markdown

COCO = "http://images.cocodataset.org"
IMAGES = f"{COCO}/zips/val2017.zip", "md5:442b8da7639aecaf257c1dceb8ba8c80"
ANNOTATIONS = f"{COCO}/annotations/annotations_trainval2017.zip", "md5:f4bbac642086de4f52a3fdda2de5fa2c"
SCORES = {"segm": ("segm", "AP"), "bbox": ("bbox", "AP"), "panoptic": ("panoptic", "All", "pq")}  # in metrics.json
HEAD = ("weights", "result", "published", "on", "reproduced", "on images")
OPENING, CLOSING = "<!-- reproduced: appended by scripts/reproduce.py -->", "<!-- end of reproduced -->"


@dataclass
class Reproduce:
    """Evaluate published weights, and print the published and the reproduced score side by side."""

    name: Annotated[str, tyro.conf.Positional]
    """Whose (python -m common.run.weights prints all names)."""
    weights_file: Path | None = None
    """The published file, where you have it; it is checked, and copied to where it would have been fetched to."""
    images: str = ""
    """The folder of the pictures that the score is of; without it: COCO's val2017, fetched."""
    annotations: str = ""
    """Their annotations, as the package's eval.py takes them."""
    table: Path | None = None
    """The page whose table of reproduced scores gets the rows, as solov2/README.md."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""


def main() -> None:
    options = tyro.cli(Reproduce, description=__doc__)
    package, _, name = options.name.partition(":")
    entry = entry_of(options.name)
    if entry is None or not entry.scores:
        raise UserError(f"{options.name}: no published weights with a score; python -m common.run.weights prints them")
    if bool(options.images) != bool(options.annotations):
        raise UserError("--images and --annotations: name both, or none to fetch COCO's val2017")
    images, annotations = (options.images, options.annotations) if options.images else val2017(options.name, entry)
    if options.weights_file is not None:
        place = place_of(package, name, entry)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy(options.weights_file, place)
    metrics = evaluated(package, options, images, annotations)
    count = len(json.loads(Path(annotations).read_text(encoding="utf-8"))["images"])
    rows = [
        (f"`{options.name}`", kind, f"{score}", entry.scored_on, reproduced(metrics, kind), f"{count:,}")
        for kind, score in entry.scores.items()
    ]
    print(markdown(HEAD, rows))
    if options.table is not None:
        append(options.table, rows)
        print(f"written: {options.table}")


def val2017(name: str, entry: Published) -> tuple[str, str]:
    """Pictures and instances, unpacked in the cache."""
    if "val2017" not in entry.scored_on or "panoptic" in entry.scores:
        raise UserError(f"{name}: its score is of {entry.scored_on}; name its --images and --annotations")
    folder = user_cache() / "coco"
    for (url, digest), inside in ((IMAGES, "val2017/"), (ANNOTATIONS, "annotations/instances_val2017.json")):
        if not (folder / inside).exists():
            unpack(fetch(url, folder / url.rpartition("/")[2], digest), inside, folder)
    return str(folder / "val2017"), str(folder / "annotations/instances_val2017.json")


def unpack(archive: Path, inside: str, folder: Path) -> None:
    """One file or folder of an archive, there whole or not at all."""
    with TemporaryDirectory(dir=folder) as temporary, zipfile.ZipFile(archive) as opened:
        opened.extractall(temporary, [name for name in opened.namelist() if name.startswith(inside)])
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (Path(temporary) / inside).rename(folder / inside)


def evaluated(package: str, options: Reproduce, images: str, annotations: str) -> dict[str, Any]:
    """The scores that the package's eval.py writes."""
    with TemporaryDirectory() as folder:
        named = ["--data.val.images", images, "--data.val.annotations", annotations]
        sys.argv = ["eval.py", "--weights", options.name, "--run", folder, "--device", options.device, *named]
        import_module(f"{package}.eval").main()
        (written,) = Path(folder).glob("*/metrics.json")
        metrics: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        return metrics


def reproduced(metrics: Any, kind: str) -> str:
    """The score of the kind in percent, as published ones are."""
    for key in SCORES[kind]:
        metrics = metrics[key]
    return f"{100 * metrics:.1f}"


def append(page: Path, rows: list[tuple[str, ...]]) -> None:
    """Behind the table's last row, or as a new table at the page's end."""
    text = page.read_text(encoding="utf-8")
    before, opening, rest = text.partition(OPENING)
    if not opening:
        write_text(page, f"{text.rstrip()}\n\n## Reproduced\n\n{OPENING}\n{markdown(HEAD, rows)}\n{CLOSING}\n")
        return
    table, closing, after = rest.partition(CLOSING)
    if not closing:
        raise UserError(f"{page}: no {CLOSING} behind {OPENING}; put it back")
    added = "\n".join(markdown(HEAD, rows).splitlines()[2:])
    write_text(page, f"{before}{OPENING}\n{table.strip()}\n{added}\n{CLOSING}{after}")


if __name__ == "__main__":
    program.run(main)
