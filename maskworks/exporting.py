"""What every export.py writes: one file with the network and its post-processing, in a format and a precision."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from common.data.images import read_image
from common.errors import UserError
from common.run.model import Picture
from maskworks import shapes
from maskworks.compiled import export_pt2
from maskworks.onnx_export import export_onnx


@dataclass
class Export:
    """Write the network and its post-processing as one file, and check it against PyTorch."""

    weights: str
    """A checkpoint of ours."""
    out: str = ""
    """The file to write; empty: model.onnx or model.pt2."""
    format: Literal["onnx", "pt2"] = "onnx"
    """pt2: compiled by PyTorch for this computer's processor; needs a C++ compiler, and minutes."""
    precision: Literal["fp32", "fp16"] = "fp32"
    """fp16: half the size; convolutions and matrix products in half precision, what is around the layers in single."""


@dataclass
class ExportOfPictures(Export):
    """Write the network and its post-processing as one file, and check it against PyTorch on a photograph."""

    image: str = ""
    """The photograph to check with; empty: a scene of the built-in data set."""


@dataclass
class ExportOfOneSize(ExportOfPictures):
    """Write the network and its post-processing, for pictures of one size, as one file, and check it."""

    size: tuple[int, int] | None = None
    """Height and width of the input, multiples of 32; without it: the long side both ways, so that all fit."""


def photograph(path: str) -> Picture:
    """What to check a file with: the photograph that is named, or a scene of the built-in data set."""
    return read_image(Path(path) if path else sorted(shapes.ensure("val", count=4).images.iterdir())[0])


def write(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    options: Export,
    outputs: Sequence[str],
    words: dict[str, str],
    dynamic_shapes: dict[str, Any] | None = None,
) -> Any:
    """The file that the command line asks for; returns what runs it as an onnxruntime session does."""
    options.out = options.out or f"model.{options.format}"
    if options.format == "pt2" and options.precision != "fp32":
        raise UserError("--format pt2 --precision fp16: compiled programs compute in fp32; leave out --precision")
    if (Path(options.out).suffix == ".pt2") != (options.format == "pt2"):
        raise UserError(f"--out {options.out} --format {options.format}: a .pt2 file is of that format, and only that")
    if options.format == "pt2":
        return export_pt2(graph, inputs, Path(options.out), outputs, words, dynamic_shapes)
    return export_onnx(graph, inputs, Path(options.out), outputs, words, dynamic_shapes, options.precision)
