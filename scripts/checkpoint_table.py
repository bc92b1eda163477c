"""Which published files convert: python scripts/checkpoint_table.py [LAYOUTS...] writes docs/checkpoints.md's table.

A layout is a JSON file with the names and shapes of a published one: `state_dict` {name: [shape, type]}, its name as
`file`, its configuration as `meta` (MMDetection's) or `recipe` (Detectron2's). On each the converter decides as on the
file itself, once by what its configuration says and once by its name alone; what it refuses is listed.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import tyro
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # scripts are not installed

from common.errors import UserError
from common.run.checkpoint import check_weights
from maskworks.command_line import program
from maskworks.packages import NETWORKS
from maskworks.published.origin import Origin
from scripts.mmdet2pytorch import package_of
from scripts.readme_table import README, markdown, write_between

PAGE = README.parent / "docs" / "checkpoints.md"
CASES = README.parent / "tests" / "parity" / "cases"
OWN = "_shapes"  # the end of the names of cases that record our own outputs
NO_CASE = "no case: names and shapes only"
HEAD = ["your file is of", "package", "variants", "its outputs equal the original's in"]
SALIENCY = ["xuebinqin/U-2-Net, also as ONNX", "`refinemask_psg.u2net`", "`u2net`, `u2netp`", "u2net, u2netp"]


@dataclass
class CheckpointTable:
    """Count the published files that convert, and write the table of origins."""

    layouts: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()  # folders
    cases: tuple[Path, ...] = (CASES,)
    """Folders with parity cases, by which a row is verified."""
    page: Path | None = PAGE
    """The page that gets the table, which is printed too; None: none does."""


class Decided(NamedTuple):
    package: str
    source: str
    variant: str


def main() -> None:
    options = tyro.cli(CheckpointTable, prog="checkpoint_table.py", description=__doc__)
    found = [decided for folder in options.layouts for decided in count(folder)]
    cases = {path.parent.name: case for folder in options.cases for path, case in network_cases(folder)}
    verified = {name: decide(case, None) for name, case in sorted(cases.items())}
    print(text := table([*found, *verified.values()], verified))
    if options.page is not None:
        refuse_to_lose(options.page, text)
        write_between(options.page, "checkpoints", text)


def count(folder: Path) -> Iterator[Decided]:
    """Print how many of a zoo's files convert, and why the others don't."""
    files, convert, refused = sorted(folder.rglob("*.json")), {"configuration": 0, "name alone": 0}, []
    for file in files:
        layout = json.loads(file.read_text(encoding="utf-8"))
        name = layout.get("file", f"{file.stem}.pth")
        said = Origin(name, recipe=layout["recipe"]) if "recipe" in layout else Origin.read(name, layout)
        for by, origin in (("configuration", said), ("name alone", Origin(name))):
            try:
                yield decide(layout, origin)
                convert[by] += 1
            except UserError as error:
                refused.append(f"  {file.stem}, by its {by}: {str(error).splitlines()[0]}")
    counts = (f"{folder}: {number} of {len(files)} convert by their {by}" for by, number in convert.items())
    print(*counts, *refused, sep="\n")


def decide(layout: Mapping[str, Any], origin: Origin | None) -> Decided:
    """As scripts/mmdet2pytorch.py does, up to the strict comparison with our network."""
    path = "the case" if origin is None else origin.path
    state = {name: values_like(entry) for name, entry in layout.get("state_dict", {}).items()}
    package = package_of(state, Path(path))
    conversion = import_module(f"{package}.convert")
    converted = conversion.convert(state, origin)
    classes = conversion.class_count(converted.weights) - getattr(converted.config.model, "spare_outputs", 0)
    with torch.device("meta"):
        model = getattr(import_module(package), NETWORKS[package])(converted.config, [""] * classes)
    check_weights(model, converted.weights, path)
    return Decided(package, converted.source, converted.config.variant)


def values_like(entry: Any) -> Tensor:
    """Zeros that need no memory: of [shape, type], or of a case's {"shape": ..}."""
    shape, kind = (entry["shape"], "float32") if isinstance(entry, Mapping) else entry
    return torch.zeros((), dtype=getattr(torch, kind)).expand(shape)


def network_cases(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The originals' own: of a whole network that a package knows."""
    for path in sorted(folder.rglob("spec.json")):
        case = json.loads(path.read_text(encoding="utf-8"))
        known = any(import_module(f"{package}.convert").recognise(case["state_dict"]) for package in NETWORKS)
        if known and not path.parent.name.endswith(OWN):
            yield path, case


def table(found: Iterable[Decided], verified: Mapping[str, Decided]) -> str:
    """A row for each origin that a package knows: the variants that files turned out to be, and the cases that ran."""
    known, rows = set(found), []
    for package in NETWORKS:
        for source in import_module(f"{package}.convert").SOURCES:
            variants = sorted(each.variant for each in known if (each.package, each.source) == (package, source))
            cases = [name for name, each in verified.items() if (each.package, each.source) == (package, source)]
            names = ", ".join(f"`{variant}`" for variant in variants)
            shown = names or f"[its page](../{package}/README.md#variants)'s"
            rows.append([source, f"`{package}`", shown, ", ".join(cases) or NO_CASE])
    return markdown(HEAD, [*rows, SALIENCY])


def refuse_to_lose(page: Path, text: str) -> None:
    """A page keeps the cases that it names: without their folder, the table would deny that they exist."""
    written = (
        page.read_text(encoding="utf-8").partition("<!-- checkpoints: ")[2].partition("<!-- end of checkpoints")[0]
    )
    lost = sorted(cases_in(written) - cases_in(text))
    if lost:
        raise UserError(f"{page}: names cases that were not given ({', '.join(lost)}); add their folders to --cases")


def cases_in(table: str) -> set[str]:
    rows = [line.split(" | ") for line in table.splitlines() if line.count(" | ") == len(HEAD) - 1][1:]
    return {name for row in rows for name in row[-1].strip("| ").split(", ")} - {NO_CASE}


if __name__ == "__main__":
    program.run(main)
