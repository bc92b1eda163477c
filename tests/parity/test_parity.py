"""Every committed case, and every case in the folder that MASKWORKS_PARITY names."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.parity.case import read_case
from tests.parity.runner import find_cases, run_case


def cases_below(folder: Path) -> list[Path]:
    """The cases in the folders of all systems."""
    return find_cases([str(system) for system in sorted(folder.iterdir()) if system.is_dir()])


COMMITTED = cases_below(Path(__file__).parent / "cases")
# what these decide, cheaper cases decide too: C4, DC5, ResNeXts, norms, many classes (tests/maskrcnn), deeper networks
SLOW = {
    "maskrcnn-detectron2_r50_c4",
    "maskrcnn-detectron2_r50_dc5",
    "maskrcnn-detectron2_r50_fpn_gn",
    "maskrcnn-detectron2_r50_fpn_syncbn",
    "maskrcnn-detectron2_x101_32x8d_fpn",
    "maskrcnn-mmdet_faster_r50_caffe_dc5",
    "maskrcnn-mmdet_r50_lvis",
    "maskrcnn-mmdet_x101_32x8d",
    "refinemask-mmdet_cascade_mask_x101_32x4d_dconv",
    "refinemask-mmdet_cascade_r101",
    "solov2-r50_3x_shapes",
    # given ones whose parts are all in others: losses_tiny; r50_fpn and mmdet_r50_caffe_c4;
    # refine_cbv2_swin_tiny_cascade_last; u2netp; darknet53_550
    "given-glip-losses_a_tiny",
    "given-maskrcnn-r50_c4",
    "given-refinemask-mask_rcnn_cbv2_swin_tiny",
    "given-refinemask-u2net",
    "given-yolact-resnet50_550",
}
GIVEN = cases_below(Path(os.environ["MASKWORKS_PARITY"])) if "MASKWORKS_PARITY" in os.environ else []


def name_of(folder: Path) -> str:
    given = "" if folder in COMMITTED else "given-"  # cases of both kinds have the same names
    return f"{given}{folder.parent.name}-{folder.name}"


def marked(folder: Path) -> Any:
    name = name_of(folder)
    return pytest.param(folder, id=name, marks=[pytest.mark.slow] if name in SLOW else [])


@pytest.mark.parametrize("folder", [marked(folder) for folder in COMMITTED + GIVEN])
def test_the_case_is_reproduced(folder: Path) -> None:
    lines, _ = run_case(read_case(folder))
    assert lines
    assert not [str(line) for line in lines if not line.passed]
