"""The network: that it builds, what its results depend on and what they don't, that text is read once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from common.data.batches import Target, collate
from glip.backbone import WindowAttention
from glip.config import VARIANTS, Model
from glip.dynamic_head import DeformableConv, reread
from glip.network import GLIP
from glip.prompts import class_prompt
from glip.pyramid import drop_squares
from glip.sizes import cut_both_sides, fit_short_side
from glip.text_encoder import Tokens
from tests.glip.small import NAMES, picture, small_model


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_builds(variant):
    with torch.device("meta"):
        model = GLIP(VARIANTS[variant], NAMES)
    fused = VARIANTS[variant].model.early_fusion
    assert (len(model.head.fusions) > 0) == fused


@pytest.mark.parametrize("fused", [False, True])
def test_results_do_not_depend_on_the_other_images_of_a_call(fused):
    model = small_model(early_fusion=fused)
    images = [picture(seed=1), picture(90, 150, seed=2), picture(seed=3)]
    together = model.predict(images)
    assert all(len(result) for result in together)
    for image, result in zip(images, together, strict=True):
        alone = model.predict([image])[0]
        assert torch.allclose(alone.boxes, result.boxes, atol=1e-4)
        assert torch.allclose(alone.scores, result.scores, atol=1e-4)
        assert torch.equal(alone.labels, result.labels)


def test_results_carry_the_right_name_whatever_the_order_of_the_prompt():
    """With one class in each caption the order cannot change a score, only where names stand in the list."""
    model = small_model()
    settings = replace(model.config.text, chunk=1)
    image = picture()
    found = {}
    for names in (NAMES, NAMES[::-1]):
        result = model.predict([image], class_prompt(names, model.tokeniser, settings))[0]
        boxes = zip(result.labels.tolist(), result.scores.tolist(), strict=True)
        found[names] = sorted((result.class_names[label], round(score, 5)) for label, score in boxes)
    assert found[NAMES] == found[NAMES[::-1]]
    assert {name for name, _ in found[NAMES]} == set(NAMES)


def test_what_else_a_caption_says_changes_scores():
    """As the README warns: BERT reads the whole caption."""
    model = small_model()
    alone, among = model.predict([picture()], NAMES[:1])[0], model.predict([picture()], NAMES)[0]
    assert not np.isclose(alone.scores.max(), among.scores[among.labels == 0].max(), atol=1e-6)


@pytest.mark.parametrize("fused", [False, True])
def test_padding_a_caption_changes_nothing(fused):
    model = small_model(early_fusion=fused)
    levels = [torch.randn(1, 32, side, side) for side in (12, 6, 3, 2, 1)]
    with torch.no_grad():
        answers = []
        for length in (0, 40):
            tokens = model.tokeniser.tokens(["a red circle"], length)
            answers.append(model.head(levels, model.text(tokens), tokens.mask))
    for short, long in zip(answers[0].token_logits, answers[1].token_logits, strict=True):
        assert torch.allclose(short, long[..., : short.shape[-1]], atol=1e-4)  # of values up to 20


def test_a_prompt_is_read_once_until_the_weights_change(monkeypatch):
    model = small_model()
    calls = []
    forward = model.text.forward
    monkeypatch.setattr(model.text, "forward", lambda tokens: calls.append(1) or forward(tokens))
    model.predict([picture()], "red circle. blue star.")
    first = model.predict([picture()], "red circle. blue star.")[0]
    assert len(calls) == 1
    model.predict([picture()], "red circle. green star.")
    assert len(calls) == 2
    with torch.no_grad():
        model.text.bert.embeddings.word_embeddings.weight.add_(torch.randn(155, 32))
    changed = model.predict([picture()], "red circle. blue star.")[0]
    assert len(calls) == 3
    assert not torch.equal(first.scores, changed.scores)


def test_captions_of_a_long_list_are_asked_one_by_one_and_their_findings_joined():
    model = small_model()
    settings = replace(model.config.text, chunk=2)
    prompt = class_prompt(NAMES, model.tokeniser, settings)
    joined = model.predict([picture()], prompt)[0]
    parts = [model.predict([picture()], NAMES[:2])[0], model.predict([picture()], NAMES[2:])[0]]
    assert len(joined) == sum(map(len, parts))
    assert torch.equal(joined.scores, torch.cat([part.scores for part in parts]).sort(descending=True).values)
    assert torch.equal((joined.labels == 2).sum(), torch.tensor(len(parts[1])))


@pytest.mark.parametrize(
    "change", [{}, {"early_fusion": True, "checkpointing": True}, {"masked_language_weight": 1.0}, {"drop_block": 0.3}]
)
def test_a_step_reaches_every_parameter_that_has_a_part_in_it(change):
    model = small_model(**change).train()
    targets = [
        Target(torch.tensor([[10.0, 10.0, 60.0, 70.0]]), torch.tensor([1]), torch.zeros(1, 96, 96, dtype=torch.bool)),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 80, 96, dtype=torch.bool)),
    ]
    batch = collate([(torch.from_numpy(picture(*t.masks.shape[1:])).permute(2, 0, 1), t) for t in targets], 32)
    losses = model.losses(batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(term) for term in losses.values())
    assert ("words" in losses) == bool(change.get("masked_language_weight"))
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_sampling_computes_the_deformable_convolution():
    torch.manual_seed(0)
    for stride in (1, 2):
        settings = [Model(channels=8, groups=2, deformable=by) for by in ("torchvision", "sampled")]
        reference, sampled = (DeformableConv(each, stride).double() for each in settings)
        sampled.load_state_dict(reference.state_dict())
        rows, columns = -(-11 // stride), -(-9 // stride)
        features, offsets = torch.randn(2, 8, 11, 9).double(), 3 * torch.randn(2, 18, rows, columns).double()
        gates = torch.rand(2, 9, rows, columns).double()
        assert torch.allclose(reference(features, offsets, gates), sampled(features, offsets, gates))


def test_the_head_passes_its_input_on_at_the_start_as_far_as_it_is_told():
    torch.manual_seed(0)
    usual = DeformableConv(Model(channels=8, groups=2), 1).weight
    torch.manual_seed(0)
    passing = DeformableConv(Model(channels=8, groups=2, head_identity=0.5), 1).weight
    middle = torch.zeros(8, 8, 3, 3)
    middle[torch.arange(8), torch.arange(8), 1, 1] = 0.5
    assert torch.allclose(passing - usual, middle, atol=1e-6)


def test_offsets_are_reread_from_each_images_own_memory():
    offsets = torch.arange(2 * 4 * 6.0).reshape(2, 2, 4, 3)
    found = reread(offsets, torch.zeros(2, 8, 2, 2))
    assert found[0].flatten().tolist() == list(range(8))
    assert found[1].flatten().tolist() == list(range(24, 32))


def test_windows_are_shifted_on_maps_no_larger_than_one():
    torch.manual_seed(0)
    plain, shifted = WindowAttention(8, 2, 4, 0), WindowAttention(8, 2, 4, 2)
    shifted.load_state_dict(plain.state_dict())
    features = torch.randn(1, 4, 4, 8)
    with torch.no_grad():
        quarter = plain(features[:, :2, :2])  # padded to a window, as the shift's quarters are not
        assert not torch.allclose(plain(features), shifted(features), atol=1e-4)
        assert quarter.shape == (1, 2, 2, 8)


def test_dropped_squares_keep_the_mean_of_a_constant_map():
    torch.manual_seed(0)
    dropped = drop_squares(torch.ones(2, 3, 30, 40), 0.3)
    assert dropped.mean() == pytest.approx(1.0, abs=1e-5)
    assert torch.equal(dropped[:, 0], dropped[:, 1])
    assert 0.1 < (dropped == 0).float().mean() < 0.4


def test_published_sizes():
    assert fit_short_side(480, 640, 800, 1333) == (800, 1066)
    assert fit_short_side(400, 1280, 800, 1333) == (417, 1334)  # the limit is not looked at again
    assert fit_short_side(800, 1067, 800, 1333) == (800, 1067)
    assert cut_both_sides(270, 360, 256, 1333) == (256, 341)


def test_tokens_move_to_a_device():
    tokens = Tokens(torch.zeros(1, 2, dtype=torch.int64), torch.ones(1, 2, dtype=torch.bool)).to(torch.device("meta"))
    assert tokens.ids.device.type == tokens.mask.device.type == "meta"
