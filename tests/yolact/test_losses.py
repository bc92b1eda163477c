"""The loss terms, worked out by hand where the formula is short enough."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from common.data.batches import Target
from yolact.boxes import make_priors
from yolact.config import VARIANTS, Losses
from yolact.losses import class_loss, hardest_background, mask_iou_loss, mask_terms, semantic_loss, yolact_losses
from yolact.network import Answers
from yolact.targets import BACKGROUND, PriorTargets, match

MODEL = replace(VARIANTS["shapes"].model, input_size=64)
PRIORS = make_priors(MODEL)
EMPTY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 64, 64, dtype=torch.bool))


def square(label: int = 1) -> Target:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    return Target(torch.tensor([[16.0, 16.0, 48.0, 48.0]]), torch.tensor([label]), masks)


def answers(images: int = 1, classes: int = 3) -> Answers:
    torch.manual_seed(0)
    count = len(PRIORS)
    shapes = ((images, count, classes + 1), (images, count, 4), (images, count, 8), (images, 16, 16, 8))
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    return Answers(*tensors, torch.randn(images, classes, 8, 8, requires_grad=True))


def test_as_many_negatives_as_asked_for_and_the_hardest():
    logits = torch.zeros(1, 12, 3)
    logits[0, :, 1] = torch.arange(12.0)  # the later, the less like background
    classes = torch.zeros(1, 12, dtype=torch.int64)
    classes[0, 0], classes[0, 11] = 2, -1  # a positive, and a neutral one that would be the hardest
    assert hardest_background(logits, classes, 3)[0].nonzero().squeeze(1).tolist() == [8, 9, 10]
    chosen = [0, 8, 9, 10]
    expected = sum(math.log(2 + math.exp(i)) for i in chosen)  # logit 0 of the right class
    assert class_loss(logits, classes, 3).item() == pytest.approx(expected, rel=1e-6)


def test_of_priors_that_are_equally_easy_the_first_are_mined():
    logits = torch.zeros(1, 200, 3)
    logits[..., 0] = 5.0  # a loss far below that of any other class
    classes = torch.zeros(1, 200, dtype=torch.int64)
    classes[0, [0, 7]], classes[0, [3, 150]] = 1, -1
    assert hardest_background(logits, classes, 2)[0].nonzero().squeeze(1).tolist() == [1, 2, 4, 5]


def test_an_image_without_objects_mines_nothing_and_another_does():
    logits = torch.randn(2, 30, 4)
    classes = torch.zeros(2, 30, dtype=torch.int64)
    classes[1, 4] = 1
    assert hardest_background(logits, classes, 3).sum(dim=1).tolist() == [0, 3]


def test_a_batch_without_any_object_has_finite_losses_and_gradients():
    given = answers(2)
    losses = yolact_losses(given, [EMPTY, EMPTY], PRIORS, None, Losses())
    assert losses["box"] == losses["class"] == losses["mask"] == 0
    torch.stack(list(losses.values())).sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in given)


def test_saturated_pixels_and_pixels_out_of_reach_cost_100():
    target = square()
    small_box = torch.tensor([[16.0, 16.0, 48.0, 32.0]]) / 64  # the mask reaches 4 rows, less the padding's, beyond
    found = PriorTargets(torch.tensor([2]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 4))
    prototypes = torch.full((16, 16, 1), 1.0)
    loss, _ = mask_terms(torch.full((1, 1), 40.0), prototypes, small_box, target, found, None, Losses(), torch.arange)
    frame, wanted = 10 * 6, 8 * 8
    inside = 8 * 5  # wanted pixels within the frame; 40 rounds to a probability of 1: they cost nothing
    expected = 100 * ((frame - inside) + (wanted - inside)) / (8 * 4)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_subset_of_the_masks_stands_for_all():
    target, count = square(), 10
    found = PriorTargets(torch.full((count,), 2), torch.zeros(count, dtype=torch.int64), torch.zeros(count, 4))
    same = torch.randn(1, 8).expand(count, 8)
    prototypes = torch.rand(16, 16, 8)
    terms = [
        mask_terms(same, prototypes, target.boxes / 64, target, found, None, Losses(max_masks=n), torch.randperm)[0]
        for n in (3, 100)
    ]
    assert terms[0].item() == pytest.approx(terms[1].item(), rel=1e-5)


def test_masks_too_small_teach_no_mask_iou():
    truth = torch.zeros(2, 16, 16)
    truth[0, :5, :5] = 1  # 25 pixels: not more than 25
    truth[1, :5, :6] = 1
    soft = truth.clone()
    soft[1, :5, 5] = 0  # 25 of 30 pixels right: IoU 5 / 6

    def network(masks: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(masks), 3)

    loss = mask_iou_loss(soft, truth, torch.tensor([0, 1]), network, Losses())
    assert loss.item() == pytest.approx(0.5 * (5 / 6) ** 2)
    assert mask_iou_loss(soft[:1], truth[:1], torch.tensor([0]), network, Losses()) == 0


def test_semantic_targets_are_the_union_of_a_classes_masks():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :, :4] = True
    masks[1, :, 2:6] = True
    target = Target(torch.zeros(2, 4), torch.tensor([1, 1]), masks)
    logits = torch.full((1, 2, 8, 8), -100.0)
    logits[0, 1, :, :6] = 100.0
    assert semantic_loss(logits, [target]).item() == pytest.approx(0.0, abs=1e-6)
    logits[0, 1, 0, 7] = 100.0  # one pixel wrong
    assert semantic_loss(logits, [target]).item() == pytest.approx(100 / 64)


def binary_cross_entropy(probability: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return -(truth * probability.log().clamp(min=-100) + (1 - truth) * (1 - probability).log().clamp(min=-100))


def smooth_l1(difference: torch.Tensor) -> torch.Tensor:
    size = difference.abs()
    return torch.where(size < 1, size**2 / 2, size - 0.5)


@pytest.mark.parametrize(("half", "negatives"), [(False, 2), (True, 2), (False, 1000)])
def test_every_term_of_a_batch_is_as_the_paper_states_it_prior_by_prior(half, negatives):
    """Two images, one with two objects and a crowd; every weight another number."""
    torch.manual_seed(3)
    both = answers(2)
    if half:
        both = Answers(*(tensor.detach().bfloat16() for tensor in both))  # type: ignore[arg-type, union-attr]
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 4:30, 6:40], masks[1, 33:60, 20:62] = True, True
    boxes = torch.tensor([[6.0, 4.0, 40.0, 30.0], [20.0, 33.0, 62.0, 60.0]])
    crowd = torch.tensor([[0.0, 0.0, 30.0, 60.0]])
    targets = [Target(boxes, torch.tensor([2, 0]), masks, crowd_boxes=crowd), square()]
    settings = Losses(0.45, 0.3, 0.6, negatives, 1.25, 6.5, 0.75, 24.0, 10_000, 25)
    weights = torch.rand(3, 16, 16)

    def mask_iou(soft: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nyx,cyx->nc", soft[:, 0], weights) / 50

    terms = yolact_losses(both, targets, PRIORS, mask_iou, settings)

    logits, deltas, coefficients, prototypes, semantic = (tensor.float() for tensor in both)  # type: ignore[union-attr]
    found = [match(t.boxes / 64, t.labels, t.crowd_boxes / 64, PRIORS, settings) for t in targets]
    count, expected = 0, dict.fromkeys(("box", "class", "mask", "semantic", "mask_iou"), torch.zeros(()))
    for image, (target, decided) in enumerate(zip(targets, found, strict=True)):
        small = F.interpolate(target.masks[None].float(), (16, 16), mode="bilinear")[0] > 0.5
        costs, background = -logits[image].log_softmax(dim=1), []
        for prior, wanted in enumerate(decided.classes.tolist()):
            if wanted == BACKGROUND:
                background.append(costs[prior, 0])
            if wanted <= BACKGROUND:
                continue
            count += 1
            number = int(decided.objects[prior])
            expected["box"] = expected["box"] + smooth_l1(deltas[image, prior] - decided.deltas[prior]).sum()
            expected["class"] = expected["class"] + costs[prior, wanted]
            x1, y1, x2, y2 = (target.boxes[number] / 4).tolist()
            soft = (prototypes[image] @ coefficients[image, prior]).sigmoid()
            rows, columns = torch.arange(16)[:, None], torch.arange(16)
            soft = soft * ((rows >= y1 - 1) & (rows < y2 + 1) & (columns >= x1 - 1) & (columns < x2 + 1))
            truth = small[number].float()
            pixels = binary_cross_entropy(soft, truth).sum()
            expected["mask"] = expected["mask"] + pixels / ((x2 - x1) * (y2 - y1))
            binary = soft > 0.5
            actual = (binary & small[number]).sum() / (binary | small[number]).sum()
            predicted = mask_iou(soft[None, None])[0, target.labels[number]]
            expected["mask_iou"] = expected["mask_iou"] + smooth_l1(predicted - actual)
        positives = int((decided.classes > BACKGROUND).sum())
        expected["class"] = (
            expected["class"] + torch.stack(background).sort(descending=True)[0][: negatives * positives].sum()
        )
        for label in range(3):
            union = F.interpolate(target.masks[None].float(), (8, 8), mode="bilinear")[0] > 0.5
            truth = union[target.labels == label].any(dim=0).float()
            pixels = binary_cross_entropy(semantic[image, label].sigmoid(), truth)
            expected["semantic"] = expected["semantic"] + 0.75 * pixels.sum() / (8 * 8 * 2)
    for name, weight in (("box", 1.25), ("class", 1), ("mask", 6.5), ("mask_iou", 24)):
        expected[name] = weight * expected[name] / count
    for name, value in terms.items():
        torch.testing.assert_close(value, expected.pop(name), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: n + text)
    assert not expected
