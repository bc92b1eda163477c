"""Loss terms against torchvision's and hand-computed numbers."""

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from glip.boxes import anchors_of, decode
from glip.config import Model
from glip.dynamic_head import Answers
from glip.losses import giou_loss, glip_losses, hide_words, word_loss
from glip.targets import assign

SIZES = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_every_term_of_a_batch_is_summed_anchor_by_anchor(kind):
    """Two images, one box and two; the weights are other than 1."""
    torch.manual_seed(2)
    found = Answers(
        [torch.randn(2, h * w, 6).to(kind) for h, w in SIZES],
        [torch.randn(2, 4, h, w).to(kind) for h, w in SIZES],
        [torch.randn(2, 1, h, w).to(kind) for h, w in SIZES],
        torch.zeros(2, 6, 8),
    )
    boxes = [torch.tensor([[2.0, 3.0, 25.0, 28.0]]), torch.tensor([[1.0, 1.0, 14.0, 17.0], [9.0, 12.0, 30.0, 31.0]])]
    positive = [torch.eye(6)[[1]].bool(), torch.eye(6)[[0, 3]].bool()]
    mask = torch.tensor([[True] * 6, [True, True, True, True, True, False]])
    levels = anchors_of(SIZES, 2.0, torch.device("cpu"))
    anchors = torch.cat(levels)
    terms = glip_losses(found, levels, boxes, positive, mask, Model(token_loss_weight=1.5, box_loss_weight=2.5))

    token, box, centre, weights, count = torch.zeros(5)
    for image in range(2):
        assigned = assign(boxes[image], levels)
        owners = dict(zip(assigned.anchors.tolist(), assigned.objects.tolist(), strict=True))
        logits = torch.cat([level[image] for level in found.token_logits]).float()
        deltas = torch.cat([level[image].flatten(1).T for level in found.deltas]).float()
        centres = torch.cat([level[image].flatten() for level in found.centerness]).float()
        for anchor, place in enumerate(anchors):
            owner = owners.get(anchor)
            wanted = torch.zeros(6) if owner is None else positive[image][owner].float()
            token = token + (sigmoid_focal_loss(logits[anchor], wanted) * mask[image]).sum()
            if owner is None:
                continue
            x, y = ((place[:2] + place[2:]) / 2).tolist()
            x1, y1, x2, y2 = boxes[image][owner].tolist()
            near = min(x - x1, x2 - x) / max(x - x1, x2 - x) * min(y - y1, y2 - y) / max(y - y1, y2 - y)
            decoded = decode(deltas[anchor], place)[None]
            box = box + near**0.5 * generalized_box_iou_loss(decoded, boxes[image][owner][None])[0]
            centre = centre + F.binary_cross_entropy_with_logits(centres[anchor], torch.tensor(near**0.5))
            weights, count = weights + near**0.5, count + 1
    assert count > 2
    torch.testing.assert_close(terms["token"], 1.5 * token / count, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["box"], 2.5 * box / weights, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["centerness"], centre / count, rtol=1e-4, atol=0)


def test_boxes_that_are_the_wrong_way_round_and_apart_have_a_loss_and_a_slope():
    boxes = torch.tensor([[30.0, 30.0, 20.0, 40.0], [0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 0.0, 0.0]])
    loss = giou_loss(boxes, targets)
    # the first counts as a line at x = 30: overlap 0, union 100, around 30 x 40
    assert loss[0].item() == pytest.approx(1 + (1200 - 100) / 1200)
    assert loss[1].item() == pytest.approx(1)  # two points: 0 of 1e-7
    loss.sum().backward()
    assert boxes.grad.isfinite().all()


def test_an_image_without_objects_only_learns_that_nothing_is_there():
    torch.manual_seed(0)
    found = Answers(
        [torch.randn(1, h * w, 6) for h, w in SIZES],
        [torch.randn(1, 4, h, w) for h, w in SIZES],
        [torch.randn(1, 1, h, w) for h, w in SIZES],
        torch.zeros(1, 6, 8),
    )
    anchors, nobody = anchors_of(SIZES, 8.0, torch.device("cpu")), torch.zeros(0, 6, dtype=torch.bool)
    terms = glip_losses(found, anchors, [torch.zeros(0, 4)], [nobody], torch.ones(1, 6, dtype=torch.bool), Model())
    assert terms["box"] == terms["centerness"] == 0
    assert terms["token"] > 0


def test_words_are_hidden_as_in_berts_training():
    torch.manual_seed(0)
    ids = torch.full((100, 200), 7)
    hideable = torch.zeros_like(ids, dtype=torch.bool)
    hideable[:, 1:] = True
    changed, chosen = hide_words(ids, hideable, 0.15, hidden=4, words=1000)
    assert not chosen[:, 0].any()
    assert chosen.float().mean() == pytest.approx(0.15, abs=0.01)
    assert (changed[~chosen] == 7).all()
    assert (changed[chosen] == 4).float().mean() == pytest.approx(0.8, abs=0.03)
    assert (changed[chosen] == 7).float().mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_only_hidden_words_are_guessed(kind):
    guesses = torch.zeros(1, 3, 10, dtype=kind)
    guesses[0, 0, 5] = 100
    ids, chosen = torch.tensor([[5, 1, 2]]), torch.tensor([[True, False, True]])
    assert word_loss(guesses, ids, chosen) == pytest.approx((0 + torch.tensor(10.0).log().item()) / 2)
