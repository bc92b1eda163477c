"""The semantic map and the instances, merged to one panoptic map; and the entities that relations hold between.

- Stuff comes from the semantic network, things from the detector. The smallest instances are on top.
- Ids are the original's: the class for stuff, class + 1000 * number for things, so entities sort stuff first.
- `original_faults`: within a class the worst but one instance follows the best, and every pixel of a thing has the
  score of the instance that was visited last, be it skipped or not.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from common.data.batches import Prepared
from common.ops.precision import widest_float
from common.results import Instances, Panoptic, Segment

OFFSET = 1000
VOID = -1
STRIP_VALUES = 2**24  # the semantic map is enlarged in strips of at most so many values


class SemanticMap(NamedTuple):
    """The best class of each pixel of the photograph."""

    labels: Tensor  # [H, W] int64; the number of classes is the spare channel, which stands for nothing
    scores: Tensor  # [H, W] float: its probability


class Merged(NamedTuple):
    """A panoptic map as the original numbers it."""

    ids: Tensor  # [H, W] int32: class of stuff (or the spare channel), class + 1000 * number of things, VOID
    scores: Tensor  # [H, W] float


def semantic_map(logits: Tensor, prepared: Prepared) -> SemanticMap:
    """Logits [classes + 1, h, w] at stride 4 -> the photograph's size, by way of the network input's."""
    height, width = prepared.resized_size
    inputs = F.interpolate(logits[None].float(), prepared.tensor.shape[1:], mode="bilinear", align_corners=False)
    inputs = inputs[0, :, :height, :width]
    rows, columns = prepared.original_size
    step = max(1, STRIP_VALUES // (len(logits) * columns))
    labels, scores = [], []
    for strip in torch.split(torch.arange(rows, device=logits.device), step):
        values = enlarged_rows(inputs, strip, rows, columns)
        best = values.max(dim=0)
        labels.append(best.indices)
        scores.append((best.values - values.logsumexp(dim=0)).exp())
    return SemanticMap(torch.cat(labels), torch.cat(scores))


def enlarged_rows(inputs: Tensor, chosen: Tensor, rows: int, columns: int) -> Tensor:
    """The `chosen` rows of the maps [C, h, w] resized bilinearly to rows x columns, [C, chosen, columns]."""
    height = inputs.shape[1]
    centres = ((chosen + 0.5) * (height / rows) - 0.5).clamp(min=0)
    upper = centres.long()
    lower = (upper + 1).clamp(max=height - 1)
    below = (centres - upper)[:, None].to(inputs.dtype)
    mixed = inputs[:, upper] * (1 - below) + inputs[:, lower] * below
    return F.interpolate(mixed[None], (len(chosen), columns), mode="bilinear", align_corners=False)[0]


def merge(
    semantic: SemanticMap,
    instances: Instances,
    things: int,
    threshold: float,
    *,
    by_area: bool = True,
    original_faults: bool = False,
) -> Merged:
    """Paints the instances over the stuff; without by_area one after the other, however large."""
    is_stuff = semantic.labels >= things
    ids = torch.where(is_stuff, semantic.labels, VOID).to(torch.int32)
    scores = torch.where(is_stuff, semantic.scores, 0.0)
    visited = visiting_order(instances.labels, original_faults)
    kept = visited[instances.scores[visited] >= threshold]
    if len(kept) == 0 or instances.masks is None:
        return Merged(ids, scores)
    numbers = torch.arange(1, len(kept) + 1, device=kept.device)
    thing_ids = (instances.labels[kept] + OFFSET * numbers).to(torch.int32)
    score_of = visited[-1:].expand(len(kept)) if original_faults else kept
    thing_scores = instances.scores[score_of].to(scores.dtype)
    masks = instances.masks[kept]
    top = torch.arange(len(kept) - 1, -1, -1, device=kept.device)  # what is painted last comes first
    if by_area:
        top = masks.sum(dim=(1, 2)).argsort(descending=True, stable=True).flip(0)
    covered = masks.any(dim=0)
    seen = top[masks[top].view(torch.uint8).argmax(dim=0)]  # [H, W] the instance on top
    return Merged(torch.where(covered, thing_ids[seen], ids), torch.where(covered, thing_scores[seen], scores))


def visiting_order(labels: Tensor, original_faults: bool) -> Tensor:
    """Instances, best first, -> class by class; with the original's slip in the order best, worst, .., second best."""
    order = labels.argsort(stable=True)
    if not original_faults:
        return order
    groups = torch.split(order, torch.unique(labels, return_counts=True)[1].tolist())
    return torch.cat([order[:0], *(torch.cat((group[:1], group[1:].flip(0))) for group in groups)])


def entities(merged: Merged, classes: int) -> tuple[Tensor, Tensor]:
    """The segments of a merged map, no void, no spare channel: ids [E], sorted, and their pixels' mean scores [E]."""
    ids, index = torch.unique(merged.ids, return_inverse=True)
    totals = torch.bincount(index.flatten(), merged.scores.flatten().to(widest_float(ids.device)), len(ids))
    means = (totals / torch.bincount(index.flatten(), minlength=len(ids))).to(merged.scores.dtype)
    real = ((ids >= 0) & (ids < classes)) | (ids >= OFFSET)
    return ids[real], means[real]


def entity_masks(segments: Tensor, ids: Tensor, prepared: Prepared, size: tuple[int, int]) -> Tensor:
    """Where a map [H, W] of the photograph has each id, on features of `size`: [E, h, w] bool.

    By way of the network input's size, padding included, as pixels are rounded at each step.
    """
    scaled = F.interpolate(segments[None, None].float(), prepared.resized_size, mode="nearest")
    height, width = prepared.tensor.shape[1:]
    scaled = F.pad(scaled, (0, width - scaled.shape[3], 0, height - scaled.shape[2]), value=VOID)
    return F.interpolate(scaled, size, mode="nearest")[0] == ids[:, None, None]


def panoptic(merged: Merged, ids: Tensor, scores: Tensor, things: int, class_names: tuple[str, ...]) -> Panoptic:
    """The merged map as a result; void is 0 there, and entities keep their order."""
    pairs = zip(ids.tolist(), scores.tolist(), strict=True)
    infos = [Segment(each, each % OFFSET, each % OFFSET < things, score) for each, score in pairs]
    segments = torch.where(torch.isin(merged.ids, ids), merged.ids, 0)
    return Panoptic(segments, infos, class_names, (segments.shape[0], segments.shape[1]))
