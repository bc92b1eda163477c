"""Checkpoints of ours, and the published u2net and u2netp: as .pth, whose names are the same, and as ONNX."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import UserError, needing
from common.run.checkpoint import load_weights
from maskworks.published.formats import read_checkpoint_or_published
from maskworks.published.names import local_file, open_model
from refinemask_psg.u2net.config import Config
from refinemask_psg.u2net.network import U2Net

PACKAGE = "u2net"
SMALL_WIDTH = 16  # of U-2-Net-p's second convolution


def load(file: str | Path) -> U2Net:
    """A checkpoint of ours or a published file, or what is behind a name, as a network ready to predict."""
    path = local_file(file)
    if path.suffix == ".onnx":
        return from_onnx(path)
    weights, names = read_checkpoint_or_published(path)
    if names:
        return open_model(file, PACKAGE, Config, lambda config, *_: U2Net(config.model.small, config))
    second = weights.get("stage1.rebnconv1.conv_s1.weight")
    model = U2Net(second is not None and len(second) == SMALL_WIDTH)
    load_weights(model, weights, str(file))
    return model.eval()


def from_onnx(file: Path) -> U2Net:
    """The published network exported to ONNX: batch norms are part of the convolutions, which stand as they run."""
    convolutions = read_convolutions(file)
    model = U2Net(small=len(convolutions) > 1 and len(convolutions[1][0]) == SMALL_WIDTH).eval()
    stages = [*(f"stage{number}" for number in range(1, 7)), *(f"stage{number}d" for number in range(5, 0, -1))]
    parts = [model.get_submodule(name) for name in (*stages, *(f"side{number}" for number in range(1, 7)), "outconv")]
    order = [module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)]  # as they run
    shapes = [(tuple(module.weight.shape), (len(module.weight),)) for module in order]
    if [(tuple(weight.shape), tuple(bias.shape)) for weight, bias in convolutions] != shapes:
        raise UserError(f"{file}: its {len(convolutions)} convolutions are not those of U-2-Net or U-2-Net-p")
    for module, (weight, bias) in zip(order, convolutions, strict=True):
        module.load_state_dict({"weight": weight, "bias": bias})
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_var.fill_(1 - norm.eps)  # nothing is left to do for the norms
    return model


def read_convolutions(file: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each, in the graph's order."""
    with needing(f"{file}: reading it", "onnx"):
        import onnx
        from onnx import numpy_helper
    try:
        graph = onnx.load(file).graph
        values = {each.name: torch.from_numpy(np.array(numpy_helper.to_array(each))) for each in graph.initializer}
        nodes = [node for node in graph.node if node.op_type == "Conv"]
        return [(values[node.input[1]], values[node.input[2]]) for node in nodes]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; expected a checkpoint") from error
    except Exception as error:  # onnx lets its parser's own kinds through
        raise UserError(f"{file}: not an ONNX file of a network with weights in it ({type(error).__name__})") from error
