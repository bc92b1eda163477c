"""How UPSNet is scored: panoptic quality decides; box and mask AP and semantic mIoU are told beside it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from common.run.commands import Scoring
from upsnet.panoptic_data import PanopticDataset
from upsnet.panoptic_evaluation import PanopticEvaluation, evaluate_panoptic_model, panoptic_examples
from upsnet.postprocess import Result


def everything(model: nn.Module, images: Sequence[NDArray[np.uint8]]) -> list[Result]:
    results: list[Result] = model.predict_everything(images)  # type: ignore[operator]
    return results


def evaluate(
    model: nn.Module, dataset: PanopticDataset, batch: int, workers: int, folder: Path | None = None
) -> PanopticEvaluation:
    del batch  # one image at a time
    return evaluate_panoptic_model(model, dataset, workers, everything, folder)


SCORING = Scoring(evaluate, panoptic_examples, decisive=("panoptic", "All", "pq"))
