"""OpenVINO's files, our ONNX converted: NAME.xml, the graph and what it says of itself, and NAME.bin, its weights."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError, needing
from common.files import digest_of, write_atomically
from common.run.checkpoint import require_file
from maskworks.half_precision import in_a_layer
from maskworks.onnx_export import export_onnx

SECTION = "maskworks"  # of a model's rt_info


class OpenVINO:
    """Runs a file as an onnxruntime session does."""

    def __init__(self, file: Path):
        if digest_of(weights := require_weights(file)) != words_in(file).get("weights"):
            raise UserError(f"{weights}: not the weights that were written with {file.name}; copy both together")
        with needing(f"{file}: running it", "openvino"):
            from openvino import Core
        core = Core()
        core.set_property({"ENABLE_MMAP": False})  # the file may be replaced meanwhile
        # by itself it may take bfloat16; eight bits stay eight bits
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            self.model = core.read_model(file)
            self.program = core.compile_model(self.model, "CPU", settings)
        except RuntimeError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise UserError(f"{file}: its graph is not run ({reason}); export it again") from error
        self.outputs = [output.any_name for output in self.model.outputs]
        self.around: list[str] = []  # names of what no layer computes, where the file is new

    def run(self, _: None, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        return list(self.program(dict(inputs)).values())


def export_openvino(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    out: Path,
    outputs: Sequence[str],
    words: Mapping[str, str],
    dynamic_shapes: dict[str, Any] | None,
    precision: str,
) -> OpenVINO:
    """Convert what ONNX holds of a module; in half precision a processor still computes in single, between casts."""
    with TemporaryDirectory() as folder:
        made = Path(folder) / "model.onnx"
        export_onnx(graph, inputs, made, outputs, words, dynamic_shapes, precision)
        return convert(made, out)


def convert(file: Path, out: Path) -> OpenVINO:
    """An ONNX file of ours as one of OpenVINO's, which says the same of itself."""
    with needing("--format openvino", "openvino onnx-ir"):
        import onnx_ir
        from openvino import Core
    source = onnx_ir.load(file)
    save(Core().read_model(file), out, source.metadata_props)
    program = OpenVINO(out)
    nodes = [node for node in source.graph if not in_a_layer(node)]
    program.around = [str(name) for node in nodes for name in (node.name, *(value.name for value in node.outputs))]
    return program


def save(model: Any, out: Path, words: Mapping[str, str]) -> None:
    """Write both files; the graph's knows the weights by their digest, so that it tells others' from its own."""
    from openvino import save_model

    with TemporaryDirectory() as folder:
        made = Path(folder) / "model.xml"
        save_model(model, made, compress_to_fp16=False)
        for name, value in {**words, "weights": digest_of(made.with_suffix(".bin"))}.items():
            model.set_rt_info(value, [SECTION, name])
        save_model(model, made, compress_to_fp16=False)
        for ending in (".bin", ".xml"):
            write_atomically(out.with_suffix(ending), partial(copyfile, made.with_suffix(ending)))


def words_in(file: Path) -> dict[str, str]:
    """What a file says of itself, nothing where it isn't of ours; without OpenVINO, which would guess its format."""
    try:
        entries = ElementTree.parse(file).find(f"rt_info/{SECTION}")
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{file}: not a whole file of OpenVINO; was it copied to the end?") from error
    return {entry.tag: entry.get("value", "") for entry in entries} if entries is not None else {}


def require_weights(file: Path) -> Path:
    if not (weights := file.with_suffix(".bin")).is_file():
        raise UserError(f"{weights}: not there; {file.name} has its weights in it: copy both together")
    require_file(weights)
    return weights
