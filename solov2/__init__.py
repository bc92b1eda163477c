"""SOLOv2: Dynamic and Fast Instance Segmentation (Wang et al., arXiv 2003.10152)."""

from pathlib import Path

from common import checkpoint
from common.configuration import from_dict
from common.errors import UserError
from solov2.config import VARIANTS, Config
from solov2.network import SOLOv2

__all__ = ["VARIANTS", "Config", "SOLOv2", "load"]


def load(file: str | Path) -> SOLOv2:
    """The model in a checkpoint of ours, ready to predict."""
    found = checkpoint.load(Path(file))
    if found.package != "solov2":
        raise UserError(f"{file}: a checkpoint of {found.package}, not of solov2")
    config = from_dict(Config, found.config, str(file))
    model = SOLOv2(config, found.class_names, found.category_ids)
    checkpoint.load_weights(model, found.weights, str(file))
    return model.eval()
