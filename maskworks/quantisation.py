"""Eight bits in an OpenVINO file, by NNCF: layers as pictures show their ranges, and what that costs, measured."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.data.coco import CocoDataset
from common.data.images import is_video, list_images, read_image
from common.errors import UserError, needing
from common.results import Instances
from common.run.evaluation import evaluate_instances
from common.run.settings import Images
from maskworks import commands, exported, openvino_export
from maskworks.onnx_export import partners
from maskworks.shards.columns import kept

KEPT_BACK = 5  # every fifth picture of the folder takes no part, and shows what it costs
DRAWN = 0.3  # predict.py's threshold: what is compared
SAME = 0.5  # IoU of two masks of one instance


def pictures_in(folder: str) -> tuple[list[Path], list[Path]]:
    """The pictures to calibrate with, and those to compare on."""
    found = [path for path in list_images([folder]) if not is_video(path)]
    if len(found) < KEPT_BACK:
        raise UserError(f"--calibration {folder}: {len(found)} pictures; expected at least {KEPT_BACK}, better 300")
    return [path for number, path in enumerate(found) if number % KEPT_BACK], found[::KEPT_BACK]


def data_of(validation: Images, class_names: Sequence[str]) -> CocoDataset | None:
    if not validation.images and not validation.annotations:
        return None
    dataset = CocoDataset(validation.images, validation.annotations, read=kept)
    commands.refuse_other_classes(dataset, class_names)
    return dataset


def quantise(file: Path, around: Sequence[str], calibration: str, validation: Images) -> None:
    """Replace a file, which was found right, by one whose layers compute in eight bits; say how far it is from it.

    What is `around` the layers (coordinates, counts, suppression) stays in single precision.
    """
    nncf = quiet_nncf()
    seen, kept_back = pictures_in(calibration)
    exact = exported.load(file)

    def inputs(path: Path) -> dict[str, Any]:
        tensors, _ = exact.program.graph_inputs(exact.scaling[0], read_image(path), exact.size)
        return {name: value.numpy() for name, value in tensors.items()}

    model = nncf.quantize(
        exact.session.model,
        nncf.Dataset(seen, inputs),
        subset_size=len(seen),
        ignored_scope=nncf.IgnoredScope(names=[*around], validate=False),  # a converter leaves some names out
    )
    openvino_export.save(model, file, openvino_export.words_in(file) | {"precision": "int8"})
    rough = exported.load(file)
    said = f"int8, calibrated with {len(seen)} pictures; beside fp32 on {len(kept_back)} others"
    pairs = ((exact.predict([path])[0], rough.predict([path])[0]) for path in kept_back)
    print(f"{said}: {agreement(pairs)}")
    if dataset := data_of(validation, exact.class_names):
        both: tuple[Any, Any] = (exact, rough)
        first, second = (evaluate_instances(model, dataset, 1, 0).metrics for model in both)
        for kind, scores in first.items():
            fp32, int8 = scores["AP"], second[kind]["AP"]
            print(f"{kind} AP of {len(dataset)} pictures: fp32 {fp32:.4f}, int8 {int8:.4f} ({int8 - fp32:+.4f})")


def quiet_nncf() -> Any:
    """The module, which neither reports its use nor logs its steps; a line where it is missing."""
    os.environ.setdefault("NNCF_CI", "1")  # or it reports its use to its makers
    with needing("--precision int8", "nncf"):
        import nncf
    nncf.set_log_level(logging.ERROR)
    return nncf


def agreement(pairs: Iterable[tuple[Instances, Instances]]) -> str:
    """How many of the first one's instances the second has too, of the same class and with a mask of IoU 0.5."""
    overlaps, count, other = [], 0, 0
    for pair in pairs:
        one, two = (result.filter(DRAWN) for result in pair)
        flat = [torch.as_tensor(result.masks).flatten(1).float() for result in (one, two)]
        both = flat[0] @ flat[1].T
        overlap = (both / (flat[0].sum(dim=1)[:, None] + flat[1].sum(dim=1) - both).clamp(min=1)).numpy()
        same = (one.labels[:, None] == two.labels).numpy()
        found = partners(np.where(same, (1 - overlap) / (1 - SAME), np.inf))
        overlaps += [overlap[row, column] for row, column in enumerate(found) if column >= 0]
        count, other = count + len(one), other + len(two)
    if not count:
        return f"fp32 finds nothing that scores {DRAWN}, so nothing shows what int8 costs; name other pictures"
    mean = f"mean IoU {np.mean(overlaps):.3f}, " if overlaps else ""
    again = f"{len(overlaps)} of {count} instances (scores from {DRAWN}) found again at mask IoU {SAME}"
    return f"{again}, {mean}{other - len(overlaps)} more"
