"""How Mask R-CNN is scored: COCO's mAP of masks and boxes, or, where it has no mask head, of boxes alone."""

from common.data.coco import CocoDataset
from common.metrics.coco import LIMIT
from common.metrics.coco_input import Kind
from common.results import Instances
from common.run.evaluation import Evaluation, evaluate_instances
from common.run.model import Model
from maskworks import own_data
from maskworks.commands import Scoring


def evaluate(
    model: Model[Instances], dataset: CocoDataset, batch_size: int, workers: int, limit: int = LIMIT
) -> Evaluation:
    kinds: tuple[Kind, ...] = ("segm", "bbox") if model.config.model.masks else ("bbox",)
    return evaluate_instances(model, dataset, batch_size, workers, kinds, limit)


def scoring(masks: bool) -> Scoring:
    decisive = "segm" if masks else "bbox"
    return own_data.scored_in_tiles(Scoring(evaluate=evaluate, decisive=(decisive, "AP"), limited=True))
