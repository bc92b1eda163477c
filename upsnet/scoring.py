"""How UPSNet is scored: panoptic quality decides; box and mask AP and semantic mIoU are told beside it."""

from pathlib import Path

from common.run.commands import Scoring
from upsnet.network import UPSNet
from upsnet.panoptic_data import PanopticDataset
from upsnet.panoptic_evaluation import PanopticEvaluation, evaluate_panoptic_model, panoptic_examples


def evaluate(
    model: UPSNet, dataset: PanopticDataset, batch: int, workers: int, folder: Path | None = None
) -> PanopticEvaluation:
    del batch  # one image at a time
    return evaluate_panoptic_model(model, dataset, workers, folder)


SCORING = Scoring(evaluate, panoptic_examples, decisive=("panoptic", "All", "pq"))
