"""Writing and checking ONNX files; needs the extra `export`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common.checkpoint import write_atomically
from common.errors import UserError


def export_onnx(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    out: Path,
    outputs: Sequence[str],
    dynamic_shapes: dict[str, Any] | None = None,
) -> Any:
    """Export a module for inputs of these sizes, but for what `dynamic_shapes` (as torch.export takes it) leaves open.

    Refuses operations that only PyTorch knows.

    Returns an onnxruntime session of the file.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch.onnx needs it)
    except ImportError as error:
        raise UserError(f"exporting needs {error.name}; install it with: pip install 'maskworks[export]'") from error
    exported = torch.export.export(graph, (), inputs, dynamic_shapes=dynamic_shapes, strict=False)
    program = torch.onnx.export(exported, (), dynamo=True, output_names=list(outputs), verbose=False)
    assert program is not None
    write_atomically(out, lambda temporary: program.save(str(temporary)))
    model = onnx.load(out)
    onnx.checker.check_model(model)
    foreign = sorted(
        {f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise UserError(f"{out}: holds operations that only PyTorch knows: {', '.join(foreign)}")
    return onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])


def mask_agreement(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The IoU of each pair of masks [N, H, W]; 1 where both are empty."""
    both, either = (ours & theirs).sum(axis=(1, 2)), (ours | theirs).sum(axis=(1, 2))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))
