"""Convert a published checkpoint: python scripts/mmdet2pytorch.py CHECKPOINT --out FILE.safetensors [--model NAME].

Finds out which package and which variant the file belongs to from the names and shapes in it. Strict: a name that
does not map, and a weight that is missing, is listed and is an error. --dry-run prints the mapping and writes nothing.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from common.errors import UserError
from common.run import commands
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.packages import NETWORKS
from maskworks.published.formats import read_published
from maskworks.published.whole_files import checkpoint_of, understand

# names that only networks have which are no models here, though others of their names are those of models here
RELATIVES = {
    r"bbox_head\.d?solo_ins_list|mask_head\.conv_mask_list": "SOLO of version 1 (version 2 is)",
    r"(fpn_phase_1|flow_net)\.": "YolactEdge for videos (its networks for photographs are)",
    r"backbone\.layers\.\d+\.0\.weight": "YOLACT on MobileNetV2 or VGG",
    r"roi_heads\.keypoint_(head|predictor)\.": "Keypoint R-CNN",
    r"head\.(cls|bbox)_subnet\.": "RetinaNet of Detectron2",
    r"sem_seg_head\.": "semantic or panoptic network of Detectron2",
    r"bbox_head\.(retina|atss|gfl)_cls\.": "one-stage detector of MMDetection",
    r"roi_head\.(mask_head\.\d\.conv_res|mask_iou_head)\.": "HTC, SCNet or Mask Scoring R-CNN of MMDetection",
    r"backbone\.layer1\.0\.conv2\.(bn0|fc1)\.": "detector of MMDetection on ResNeSt",
    r"(transformer|bbox_embed)\.": "DETR",
    r"\d+\.(conv|cv1)\.": "YOLO of Ultralytics",
}
SALIENCY = "stage6.rebnconvin.conv_s1.weight"  # a name that only U-2-Net has
WHOSE = {
    re.compile(r"backbone\.(bottom_up|fpn_lateral)|proposal_generator\."): "Detectron2's",
    re.compile(r"(roi_head|rpn_head|neck|bbox_head|mask_head)\."): "MMDetection's",
    re.compile(r"(rpn|roi_heads)\."): "torchvision's or maskrcnn-benchmark's",
}


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


def package_of(state: dict[str, Tensor], path: Path) -> str:
    """The package that knows the names in a checkpoint."""
    for pattern, network in RELATIVES.items():
        if any(re.match(pattern, name) for name in state):
            raise UserError(f"{path}: by its names a {network}, which isn't among the models here")
    # a plain Mask R-CNN's names are in its relatives' files too: it is asked last
    for package in sorted(installed_packages(), key="maskrcnn".__eq__):
        if import_module(f"{package}.convert").recognise(state):
            return package
    whose = next((f", though they are {whose}" for mark, whose in WHOSE.items() if any(map(mark.match, state))), "")
    raise UserError(f"{path}: no model known here has its names{whose}: {', '.join(list(state)[:3])}")


def installed_packages() -> Iterator[str]:
    return (package for package in NETWORKS if find_spec(package))


def show(names: dict[str, str], state: dict[str, Any]) -> None:
    table = Table("published", "here", "shape")
    for published, here in names.items():
        table.add_row(published, here, "x".join(map(str, state[published].shape)))
    Console(width=160).print(table)


if __name__ == "__main__":
    commands.run(main)
