"""How Mask R-CNN is scored: COCO's mAP of masks and boxes, or, where it has no mask head, of boxes alone."""

from torch import nn

from common.data.coco import CocoDataset
from common.metrics.coco import LIMIT
from common.metrics.coco_input import Kind
from common.run.commands import Scoring
from common.run.evaluation import Evaluation, evaluate_instances
from maskrcnn.network import MaskRCNN


def evaluate(model: nn.Module, dataset: CocoDataset, batch_size: int, workers: int, limit: int = LIMIT) -> Evaluation:
    assert isinstance(model, MaskRCNN)
    kinds: tuple[Kind, ...] = ("segm", "bbox") if model.config.model.masks else ("bbox",)
    return evaluate_instances(model, dataset, batch_size, workers, kinds, limit)


def scoring(masks: bool) -> Scoring:
    return Scoring(evaluate=evaluate, decisive=("segm" if masks else "bbox", "AP"), limited=True, tiled=True)
