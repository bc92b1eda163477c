"""Checkpoints of ours and the published u2net.pth and u2netp.pth, whose names are the same."""

from pathlib import Path

from torch import Tensor

from common.run.checkpoint import load_weights, open_model
from common.run.published import read_checkpoint_or_published
from refinemask_psg.u2net.config import Config
from refinemask_psg.u2net.network import U2Net

PACKAGE = "u2net"


def load(file: str | Path) -> U2Net:
    """A checkpoint of ours or a published file as a network ready to predict."""
    weights, names = read_checkpoint_or_published(Path(file))
    if names:
        return open_model(file, PACKAGE, Config, lambda config, *_: U2Net(config.model.small, config))
    model = U2Net(is_small(weights))
    load_weights(model, weights, str(file))
    return model.eval()


def is_small(weights: dict[str, Tensor]) -> bool:
    deepest = weights.get("stage6.rebnconvin.conv_s1.weight")
    return deepest is not None and len(deepest) == 64
