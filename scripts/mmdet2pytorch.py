"""Convert a published checkpoint: python scripts/mmdet2pytorch.py CHECKPOINT --out FILE.safetensors [--model NAME].

Finds out which package and which variant the file belongs to from the names and shapes in it. Strict: a name that
does not map, and a weight that is missing, is listed and is an error. --dry-run prints the mapping and writes nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from common.errors import UserError
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.command_line import program
from maskworks.published.formats import read_published
from maskworks.published.recognising import SALIENCY, package_of
from maskworks.published.whole_files import checkpoint_of, understand


@dataclass
class Convert:
    """Convert a published checkpoint into one safetensors file of ours."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """The published file, or a training's: PyTorch's formats, .pkl, .npz, .safetensors; nothing in it is run."""
    out: Path | None = None
    """The file to write; without it: the checkpoint's name with .safetensors."""
    model: str | None = None
    """The variant, where the weights alone leave a choice (r50_1x and r50_3x are one network)."""
    classes: str | None = None
    """What the classes are called: a text file with a name a line, a JSON list, a COCO annotation file (its names and
    ids), or coco, pascal_voc or cityscapes; without it: what the file, its configuration or its published name says."""
    weights_key: str = ""
    """Which weights to take where the file has several sets, as `model_ema` or `teacher`; which is taken is printed."""
    dry_run: bool = False
    """Print each published name with ours, and write nothing."""


def main() -> None:
    options = tyro.cli(Convert, prog="mmdet2pytorch.py")
    if options.checkpoint.suffix == ".onnx":
        convert_saliency(options)
        return
    state, rest = read_published(options.checkpoint, options.weights_key)
    if SALIENCY in state:
        convert_saliency(options)
        return
    package = package_of(state, options.checkpoint)
    file = understand(package, options.checkpoint, state, rest, options.model, options.classes or "")
    if options.dry_run:
        show(file.converted.names, state)
    print("\n".join(file.notes))
    checkpoint = checkpoint_of(file)
    classes = len(checkpoint.class_names)
    variant = file.converted.config.variant
    print(f"{file.converted.source}, {package} {variant}, {len(state)} tensors, {classes} classes")
    if not options.dry_run:
        save(out_of(options), checkpoint)
        print(f"written: {out_of(options).resolve()}")


def convert_saliency(options: Convert) -> None:
    """U-2-Net, a part of its package: its published names are ours, and its class is the foreground."""
    from refinemask_psg.u2net import load

    model = load(options.checkpoint)
    print(f"  test.size = {model.config.test.size}: from the recipe of {model.config.variant}")
    print(f"published U-2-Net, refinemask_psg.u2net {model.config.variant}, {len(model.state_dict())} tensors")
    if not options.dry_run:
        content = Checkpoint("u2net", to_dict(model.config), ("foreground",), (1,), model.state_dict())
        save(out_of(options), content)
        print(f"written: {out_of(options).resolve()}")


def out_of(options: Convert) -> Path:
    out = options.out or options.checkpoint.with_suffix(".safetensors")
    if out.resolve() == options.checkpoint.resolve():
        raise UserError(f"{out}: is the checkpoint itself; name another file with --out")
    return out


def show(names: dict[str, str], state: dict[str, Any]) -> None:
    table = Table("published", "here", "shape")
    for published, here in names.items():
        table.add_row(published, here, "x".join(map(str, state[published].shape)))
    Console(width=160).print(table)


if __name__ == "__main__":
    program.run(main)
