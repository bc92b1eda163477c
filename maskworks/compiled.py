"""Programs that PyTorch compiles for this computer's processor (.pt2); to open one is to run its code."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError
from common.files import write_atomically

WORDS = "extra/maskworks.json"  # what a file says of itself, under the one folder of its archive
MOST = 10**7  # bytes of that


class Compiled:
    """Runs a file as an onnxruntime session does; whoever made the file decides what this computer does then."""

    def __init__(self, file: Path):
        self.outputs = json.loads(words_in(file)["outputs"])
        try:
            self.program = torch._inductor.aoti_load_package(str(file))
        except Exception as error:  # of a compiled library's many kinds
            reason = str(error).partition("\n")[0]
            raise UserError(f"{file}: cannot be run here ({reason}); export it on this computer") from error

    def run(self, _: None, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in inputs.items()}
        answer = self.program(**tensors)
        return [each.numpy() for each in ([answer] if isinstance(answer, Tensor) else answer)]


def export_pt2(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    out: Path,
    outputs: Sequence[str],
    words: Mapping[str, str],
    dynamic_shapes: dict[str, Any] | None,
) -> Compiled:
    """Compile a module; needs a C++ compiler, and minutes."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise UserError("--format pt2 needs a C++ compiler, and there is none: install g++ or clang++") from error
    said = {**words, "precision": "fp32", "outputs": json.dumps(list(outputs)), "torch": torch.__version__}
    with torch.no_grad(), TemporaryDirectory() as folder:
        exported = torch.export.export(graph, (), inputs, dynamic_shapes=dynamic_shapes, strict=False)
        try:
            made = Path(torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2"))
        except Exception as error:  # the compiler's own many kinds
            reason = str(error).partition("\n")[0]
            raise UserError(f"--format pt2: PyTorch's compiler can't do this model ({reason}); use ONNX") from error
        with ZipFile(made, "a") as archive:
            root = archive.namelist()[0].partition("/")[0]
            archive.writestr(f"{root}/{WORDS}", json.dumps(said))
        write_atomically(out, lambda temporary: temporary.write_bytes(made.read_bytes()))
    return Compiled(out)


def words_in(file: Path) -> dict[str, str]:
    """What a file says of itself, read as data: nothing of it runs."""
    try:
        with ZipFile(file) as archive:
            (entry,) = [one for one in archive.infolist() if one.filename.partition("/")[2] == WORDS]
            said = json.loads(archive.read(entry)) if entry.file_size <= MOST else None
    except (BadZipFile, ValueError, OSError, RuntimeError, NotImplementedError, RecursionError) as error:
        raise UserError(f"{file}: no whole .pt2 file of export.py; was it copied to the end?") from error
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise UserError(f"{file}: what it says beside the program is broken; export it again")
    return said
