"""Answers + targets -> the loss terms: alignment with tokens, boxes, centerness (paper, equation 2; ATSS)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.run.distributed import mean_over_processes
from glip.boxes import decode, encode
from glip.config import Model
from glip.dynamic_head import Answers
from glip.targets import assign, centerness_of, token_targets

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
EPSILON = 1e-7


def glip_losses(
    answers: Answers,
    anchors: Sequence[Tensor],
    boxes: Sequence[Tensor],
    positive: Sequence[Tensor],
    mask: Tensor,
    settings: Model,
) -> dict[str, Tensor]:
    """The weighted terms "token", "box" and "centerness" of a batch.

    Of each image the boxes [n, 4] and the tokens that name them, positive [n, T] bool; mask [N, T] bool of the tokens.
    """
    token_logits = torch.cat(answers.token_logits, dim=1).float()  # [N, A, T]
    deltas = torch.cat([level.flatten(2) for level in answers.deltas], dim=2).transpose(1, 2).float()  # [N, A, 4]
    centerness = torch.cat([level.flatten(1) for level in answers.centerness], dim=1).float()  # [N, A]
    every = torch.cat(list(anchors))
    token_losses, box_losses, centre_losses, centres = [], [], [], []
    for image, own_boxes in enumerate(boxes):
        assignment = assign(own_boxes, anchors)
        chosen, own_anchors = assignment.anchors, every[assignment.anchors]
        targets = token_targets(positive[image], assignment, len(every))
        token_losses.append((focal_loss(token_logits[image], targets) * mask[image]).sum())
        wanted = decode(encode(own_boxes[assignment.objects], own_anchors), own_anchors)
        central = centerness_of(wanted, own_anchors)
        box_losses.append((giou_loss(decode(deltas[image, chosen], own_anchors), wanted) * central).sum())
        centre_losses.append(F.binary_cross_entropy_with_logits(centerness[image, chosen], central, reduction="sum"))
        centres.append(central)
    central = torch.cat(centres)
    positives = mean_over_processes(torch.tensor(float(len(central)), device=central.device)).clamp(min=1)
    weights = mean_over_processes(central.sum())
    return {
        "token": settings.token_loss_weight * torch.stack(token_losses).sum() / positives,
        "box": settings.box_loss_weight * torch.stack(box_losses).sum() / weights.clamp(min=EPSILON),
        "centerness": torch.stack(centre_losses).sum() / positives,
    }


def focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss (arXiv 1708.02002) of each element; targets are 0 or 1."""
    probabilities = logits.sigmoid()
    right = probabilities * targets + (1 - probabilities) * (1 - targets)
    weight = ALPHA * targets + (1 - ALPHA) * (1 - targets)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return weight * (1 - right) ** GAMMA * entropy


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU (arXiv 1902.09630) of pairs [n, 4]; sides are differences here, not one more as everywhere else."""
    boxes = torch.cat((boxes[:, :2], torch.maximum(boxes[:, :2], boxes[:, 2:])), dim=1)
    overlap = area(torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:]))
    around = area(torch.minimum(boxes[:, :2], targets[:, :2]), torch.maximum(boxes[:, 2:], targets[:, 2:])) + EPSILON
    union = area(boxes[:, :2], boxes[:, 2:]) + area(targets[:, :2], targets[:, 2:]) - overlap + EPSILON
    return 1 - overlap / union + (around - union) / around


def area(first: Tensor, last: Tensor) -> Tensor:
    """Of boxes from corner to corner, [n, 2] each; 0 where they are the wrong way round."""
    return (last - first).clamp(min=0).prod(dim=1)


def hide_words(ids: Tensor, hideable: Tensor, share: float, hidden: int, words: int) -> tuple[Tensor, Tensor]:
    """Ids [N, T] with some words hidden as BERT's training does (arXiv 1810.04805, section 3.1), and which [N, T] bool.

    Of those to be guessed 80 % become the id `hidden`, 10 % another word, and 10 % stay.
    """
    chance = torch.rand(ids.shape, device=ids.device)
    chosen = hideable & (chance < share)
    others = torch.randint(words, ids.shape, device=ids.device)
    changed = torch.where(chance < 0.8 * share, hidden, torch.where(chance < 0.9 * share, others, ids))
    return torch.where(chosen, changed, ids), chosen


def word_loss(guesses: Tensor, ids: Tensor, chosen: Tensor) -> Tensor:
    """Cross entropy of the hidden words: guesses [N, T, words], ids [N, T], chosen [N, T] bool."""
    losses = F.cross_entropy(guesses.float().flatten(0, 1), ids.flatten(), reduction="none") * chosen.flatten()
    return losses.sum() / chosen.sum().clamp(min=1)
