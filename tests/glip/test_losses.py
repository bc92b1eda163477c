"""Loss terms against torchvision's and hand-computed numbers."""

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from glip.boxes import anchors_of
from glip.config import Model
from glip.dynamic_head import Answers
from glip.losses import focal_loss, giou_loss, glip_losses, hide_words, word_loss

SIZES = [(4, 4), (2, 2), (1, 1), (1, 1), (1, 1)]


def answers(tokens=6):
    torch.manual_seed(0)
    return Answers(
        [torch.randn(1, h * w, tokens, requires_grad=True) for h, w in SIZES],
        [0.1 * torch.randn(1, 4, h, w) for h, w in SIZES],
        [torch.randn(1, 1, h, w) for h, w in SIZES],
        torch.zeros(1, tokens, 8),
    )


def losses(found, boxes, positive, mask):
    anchors = anchors_of(SIZES, 8.0, torch.device("cpu"))
    return glip_losses(found, anchors, [boxes], [positive], mask, Model())


def test_focal_and_giou_are_those_of_torchvision():
    torch.manual_seed(1)
    logits, targets = torch.randn(5, 7), (torch.rand(5, 7) < 0.3).float()
    assert torch.allclose(focal_loss(logits, targets), sigmoid_focal_loss(logits, targets))
    corners = 20 * torch.rand(6, 2, 2)
    boxes = torch.cat((corners[:, 0], corners[:, 0] + corners[:, 1] + 1), dim=1)
    assert torch.allclose(giou_loss(boxes, boxes.flip(0)), generalized_box_iou_loss(boxes, boxes.flip(0)), atol=1e-5)


def test_tokens_of_the_padding_do_not_count():
    boxes, positive = torch.tensor([[2.0, 3.0, 25.0, 28.0]]), torch.eye(6, dtype=torch.bool)[:1]
    mask = torch.tensor([[True, True, True, True, False, False]])
    found = answers()
    losses(found, boxes, positive, mask)["token"].backward()
    slopes = torch.cat([level.grad for level in found.token_logits], dim=1)[0]
    assert (slopes[:, :4] != 0).all()
    assert (slopes[:, 4:] == 0).all()


def test_an_image_without_objects_only_learns_that_nothing_is_there():
    mask = torch.ones(1, 6, dtype=torch.bool)
    terms = losses(answers(), torch.zeros(0, 4), torch.zeros(0, 6, dtype=torch.bool), mask)
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


def test_only_hidden_words_are_guessed():
    guesses = torch.zeros(1, 3, 10)
    guesses[0, 0, 5] = 100
    ids, chosen = torch.tensor([[5, 1, 2]]), torch.tensor([[True, False, True]])
    assert word_loss(guesses, ids, chosen) == pytest.approx((0 + torch.tensor(10.0).log().item()) / 2)
