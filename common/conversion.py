"""What every package's convert.py shares: renaming a published state dict, and what comes of it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

C = TypeVar("C")
Rules = list[tuple[str, str]]  # pattern and replacement, applied one after the other


@dataclass
class Converted(Generic[C]):
    """A published checkpoint, ready for the network's load_state_dict."""

    source: str  # whose names the file has
    config: C
    weights: dict[str, Tensor]
    names: dict[str, str]  # published name -> name here


def rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def count(names: Iterable[str], pattern: str) -> int:
    """How many different first groups a pattern finds among names: the blocks of a stage, the layers of a tower."""
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})
