"""How far float32 leaves the boxes of a GLIP case open.

A corner is a prior's centre plus its size times what the network says, and the top levels' priors have sides of 512
and 1024 pixels: an answer's last digits move a corner by hundredths of a pixel. How far depends on the photograph and
on the order in which a machine adds up. So where boxes miss the tolerance, the case is computed again in float64, and
in float32 in three orders of sums: with oneDNN's convolutions, without, and with channels last.
"""

import torch

from glip.convert import convert
from tests.parity import glip
from tests.parity.case import Array, Case
from tests.parity.networks import published_checkpoint
from tests.parity.rules import largest
from tests.parity.runner import other_rounding

Found = dict[str, Array]  # boxes by output name, in the order of the expected ones
LARGEST_ROUNDING = 0.5  # pixels
DISTANCES: dict[str, dict[str, float]] = {}  # by case, as measuring takes four passes


def boxes(case: Case, name: str) -> float:
    """Twice the largest distance of float32 boxes from float64 ones, in pixels; at most LARGEST_ROUNDING.

    Twice, since the original's stand as far from the exact ones as ours, and may do so on the other side.
    """
    folder = str(case.folder.resolve())
    if folder not in DISTANCES:
        DISTANCES[folder] = distances(found_in(case, torch.float64), in_other_orders(case))
    return min(2 * DISTANCES[folder].get(name, 0.0), LARGEST_ROUNDING)


def distances(exact: Found, single: list[Found]) -> dict[str, float]:
    """By output, how far any float32 box is from its exact one; an order that finds more or fewer says nothing."""
    return {
        name: max((largest(abs(each[name] - values)) for each in single if len(each[name]) == len(values)), default=0.0)
        for name, values in exact.items()
    }


def in_other_orders(case: Case) -> list[Found]:
    found = [found_in(case, torch.float32), found_in(case, torch.float32, torch.channels_last)]
    with other_rounding():
        found.append(found_in(case, torch.float32))
    return found


def found_in(case: Case, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> Found:
    """The case's boxes as computed in a number format; of those beyond the expected ones none."""
    model = glip.build(case, convert(published_checkpoint(case))).to(dtype).to(memory_format=layout)
    computed = glip.infer(case, model)
    names = [name for name in case.outputs if "boxes" in name and name in computed]
    return {name: computed[name][: len(case.outputs[name])] for name in names}
