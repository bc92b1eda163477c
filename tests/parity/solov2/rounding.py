"""How far float32 leaves a SOLOv2 case's masks and decayed scores open.

A mask is where a sigmoid exceeds its threshold, so pixels within rounding of it fall to either side, on every machine
to another; matrix NMS then decays hundreds of scores by the overlaps of these masks. So where areas or scores miss
their tolerance, the case is computed again in float64, and in float32 in two orders of sums.
"""

import torch

from solov2.convert import convert
from tests.parity import solov2
from tests.parity.case import Array, Case
from tests.parity.networks import published_checkpoint
from tests.parity.rules import Rule
from tests.parity.runner import other_rounding

Found = dict[str, Array]
DECIDED_BY_MASKS = ("post/pre_nms_mask_areas", "post/nms_scores", "final/scores", "final/mask_areas", "scores")
LARGEST_ROUNDING = 1e-3
COMPUTED: dict[str, list[Found]] = {}  # by case, as measuring takes three passes


def of_masks(case: Case, name: str, rule: Rule) -> float:
    """Twice the largest error of float32 by this rule against float64, at most LARGEST_ROUNDING.

    Twice, since the original's stand as far from the exact ones as ours, and may do so on the other side.
    """
    folder = str(case.folder.resolve())
    if folder not in COMPUTED:
        COMPUTED[folder] = in_three_ways(case)
    exact, *single = COMPUTED[folder]
    alike = [found for found in single if found[name].shape == exact[name].shape]
    return min(2 * max((rule.error(found[name], exact[name]) for found in alike), default=0.0), LARGEST_ROUNDING)


def in_three_ways(case: Case) -> list[Found]:
    found = [found_in(case, torch.float64), found_in(case, torch.float32)]
    with other_rounding():
        found.append(found_in(case, torch.float32))
    return found


def found_in(case: Case, dtype: torch.dtype) -> Found:
    """What masks decide, as computed in a number format."""
    model = solov2.build(case, convert(published_checkpoint(case))).to(dtype)
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].to(dtype),))  # predict makes its images in float32
    computed = solov2.infer(model, case)
    return {name: computed[name] for name in DECIDED_BY_MASKS if name in computed}
