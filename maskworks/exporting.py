"""What every export.py writes: one file with the network and its post-processing, in a format and a precision."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from common.data.images import read_image
from common.errors import UserError
from common.run.model import Picture
from common.run.settings import Images
from maskworks import quantisation, shapes
from maskworks.compiled import export_pt2
from maskworks.onnx_export import export_onnx
from maskworks.openvino_export import export_openvino
from maskworks.packages import NETWORKS

ENDINGS = {"onnx": ".onnx", "pt2": ".pt2", "openvino": ".xml"}


@dataclass
class Annotated(Images):
    """Pictures on which --precision int8 says what it costs in AP; none: it says how many instances it finds again."""

    images: list[str] = field(default_factory=list)
    """Image folders: one for all annotation files, or one for each."""
    annotations: list[str] = field(default_factory=list)
    """COCO-format annotation files, with the checkpoint's classes."""


@dataclass
class Validation:
    """Data to measure on."""

    val: Annotated = field(default_factory=Annotated)


@dataclass
class Export:
    """Write the network and its post-processing as one file, and check it against PyTorch."""

    weights: str
    """A checkpoint of ours."""
    out: str = ""
    """The file to write; empty: model.onnx, model.pt2 or model.xml."""
    format: Literal["onnx", "pt2", "openvino"] = "onnx"
    """pt2: compiled by PyTorch for this computer's processor; needs a C++ compiler, and minutes. openvino: NAME.xml,
    and NAME.bin beside it."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """fp16: half the size; convolutions and matrix products in half precision, what is around the layers in single.
    int8: with openvino only; what it costs is measured and said."""
    calibration: str = ""
    """Folder of pictures like those to come, which show int8 the ranges of values; every fifth shows its cost."""
    data: Validation = field(default_factory=Validation)
    """Only with --precision int8."""


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
    """The file that the command line asks for; returns what runs it as an onnxruntime session does.

    One for int8 is still in fp32, to be checked: `finish` does the rest.
    """
    ending = ENDINGS[options.format]
    options.out = options.out or f"model{ending}"
    others = {*ENDINGS.values()} - {ending}
    if (suffix := Path(options.out).suffix) in others or (suffix != ending and options.format != "onnx"):
        raise UserError(f"--out {options.out} --format {options.format}: a file of that format ends in {ending}")
    refuse_unfit(options, words)
    out = Path(options.out)
    if options.format == "pt2":
        return export_pt2(graph, inputs, out, outputs, words, dynamic_shapes)
    precision = "fp16" if options.precision == "fp16" else "fp32"
    if options.format == "openvino":
        return export_openvino(graph, inputs, out, outputs, words, dynamic_shapes, precision)
    return export_onnx(graph, inputs, out, outputs, words, dynamic_shapes, precision)


def refuse_unfit(options: Export, words: dict[str, str]) -> None:
    """Stop before minutes of work for what comes to nothing."""
    if options.format == "pt2" and options.precision == "fp16":
        raise UserError("--format pt2 --precision fp16: compiled programs compute in fp32; leave out --precision")
    if options.precision == "int8":
        if options.format != "openvino":
            raise UserError(f"--format {options.format} --precision int8: there is int8 for --format openvino only")
        package = words["package"]
        if package not in NETWORKS or not hasattr(import_module(f"{package}.export"), "result"):
            raise UserError(f"--precision int8: predict.py runs no file of {package}, so nothing would show its cost")
        if not options.calibration:
            raise UserError("--precision int8 needs pictures that show the ranges of values: --calibration FOLDER")
        quantisation.quiet_nncf()
        quantisation.pictures_in(options.calibration)
        quantisation.data_of(options.data.val, json.loads(words["class_names"]))
        return
    if options.calibration or options.data.val.images or options.data.val.annotations:
        raise UserError("--calibration and --data.val are for --precision int8; leave them out")


def finish(session: Any, options: Export) -> None:
    """Of a file that was found right: what is left to do, and where it is."""
    if options.precision == "int8":
        quantisation.quantise(Path(options.out), session.around, options.calibration, options.data.val)
    print(f"written: {Path(options.out).resolve()}")
