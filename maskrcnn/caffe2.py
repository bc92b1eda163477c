"""Detectron's .pkl files (Caffe2): their blobs' names -> maskrcnn-benchmark's.

A batch norm there is already merged with its statistics: only a scale and a shift are left of it.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from maskworks.published.renaming import Rules, rename

MARK = "conv1_w"
BLOCK = r"res(\d)_(\d+)_branch"
RULES: Rules = [
    (r"_w$", ".weight"),
    (r"_bn_s$", "_bn.weight"),
    (r"_bn_b$", "_bn.bias"),
    (r"_b$", ".bias"),
    (r"^conv1\.", "stem.conv1."),
    (r"^res_conv1_bn\.", "stem.bn1."),
    *[(rf"^{BLOCK}2{letter}\.", rf"res\1.\2.conv{n}.") for n, letter in enumerate("abc", start=1)],
    *[(rf"^{BLOCK}2{letter}_bn\.", rf"res\1.\2.bn{n}.") for n, letter in enumerate("abc", start=1)],
    (rf"^{BLOCK}1\.", r"res\1.\2.downsample.0."),
    (rf"^{BLOCK}1_bn\.", r"res\1.\2.downsample.1."),
    *[(rf"^res{stage}\.", f"layer{stage - 1}.") for stage in (2, 3, 4, 5)],
    (r"^(stem|layer\d)\.", r"backbone.body.\1."),
    *[(rf"^fpn_inner_res{n + 1}_\d+_sum(_lateral)?\.", f"backbone.fpn.fpn_inner{n}.") for n in (1, 2, 3, 4)],
    *[(rf"^fpn_res{n + 1}_\d+_sum\.", f"backbone.fpn.fpn_layer{n}.") for n in (1, 2, 3, 4)],
    (r"^conv_rpn(_fpn2)?\.", "rpn.head.conv."),
    (r"^rpn_(cls_logits|bbox_pred)(_fpn2)?\.", r"rpn.head.\1."),
    (r"^(fc6|fc7)\.", r"roi_heads.box.feature_extractor.\1."),
    (r"^(cls_score|bbox_pred)\.", r"roi_heads.box.predictor.\1."),
    (r"^_\[mask\]_fcn(\d)\.", r"roi_heads.mask.feature_extractor.mask_fcn\1."),
    (r"^(conv5_mask|mask_fcn_logits)\.", r"roi_heads.mask.predictor.\1."),
]


def benchmark_names(blobs: Mapping[str, Tensor]) -> dict[str, str]:
    """Blob's name -> maskrcnn-benchmark's; the fifth stage is the regions' where there is no pyramid."""
    names = {name: rename(name, RULES) for name in blobs}
    if any("fpn_inner" in name for name in names.values()):
        return names
    stage = "roi_heads.box.feature_extractor.head.layer4."
    return {blob: name.replace("backbone.body.layer4.", stage) for blob, name in names.items()}


def with_statistics(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights and, for each merged batch norm, the statistics that change nothing."""
    scales = {name: value for name, value in weights.items() if name.endswith(".weight") and value.ndim == 1}
    means = {f"{name.removesuffix('weight')}running_mean": torch.zeros_like(value) for name, value in scales.items()}
    variances = {f"{name.removesuffix('weight')}running_var": torch.ones_like(value) for name, value in scales.items()}
    return dict(weights) | means | variances
