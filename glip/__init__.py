"""GLIP: Grounded Language-Image Pre-training (Li et al., arXiv 2112.03857)."""

from pathlib import Path

from common.run.checkpoint import open_model
from glip.config import VARIANTS, Config
from glip.network import GLIP
from glip.prompts import Prompt

__all__ = ["GLIP", "VARIANTS", "Config", "Prompt", "load"]


def load(file: str | Path) -> GLIP:
    """The model in a checkpoint of ours, ready to predict."""
    return open_model(file, "glip", Config, GLIP)
