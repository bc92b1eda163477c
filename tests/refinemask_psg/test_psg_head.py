"""The relation head: tokens, logits, targets and the loss."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, BertModel

from common.data.batches import Target
from common.errors import UserError
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.relation_head import (
    Entities,
    RelationHead,
    padded,
    relation_loss,
    relation_statistics,
    relation_targets,
)
from refinemask_psg.psg.scene_graph import (
    SceneGraphHead,
    original_class_map,
    original_training_entities,
    training_entities,
)
from refinemask_psg.psg.weights import like_pretrained, load_pretrained

SMALL = Relations(
    head="bert",
    predicates=("on", "in", "at"),
    things=3,
    layers=2,
    hidden=16,
    attention_heads=2,
    intermediate=32,
    positions=4,
    pair_channels=4,
    dropout=0.0,
    loss_weight=2.0,
    max_entities=4,
)


def head_of(kind="bert"):
    torch.manual_seed(0)
    made = RelationHead(Relations(**{**vars(SMALL), "head": kind}), classes=5, channels=8).eval()
    torch.nn.init.normal_(made.subject.weight)
    torch.nn.init.normal_(made.object.weight)
    return made


@pytest.mark.parametrize("kind", ["bert", "pairs"])
def test_segments_have_no_order(kind):
    tokens, order = torch.randn(1, 5, 8), torch.tensor([3, 0, 4, 2, 1])
    present = torch.ones(1, 5, dtype=torch.bool)
    head = head_of(kind)
    logits, shuffled = head(tokens, present), head(tokens[:, order], present)
    torch.testing.assert_close(shuffled, logits[:, :, order][:, :, :, order], rtol=1e-4, atol=1e-4)
    assert logits.shape == (1, 3, 5, 5)


def test_with_bert_a_segment_sees_the_others_but_no_padding():
    tokens = torch.randn(1, 4, 8)
    present = torch.tensor([[True, True, True, False]])
    changed = tokens.clone()
    changed[0, 3] += 1
    head = head_of()
    torch.testing.assert_close(head(tokens, present)[..., :3, :3], head(changed, present)[..., :3, :3])
    changed = tokens.clone()
    changed[0, 2] += 1
    assert not torch.allclose(head(tokens, present)[..., :2, :2], head(changed, present)[..., :2, :2], atol=1e-3)
    pairs = head_of("pairs")
    torch.testing.assert_close(pairs(tokens, present)[..., :2, :2], pairs(changed, present)[..., :2, :2])


def test_a_logit_is_the_product_of_subject_and_object_vectors():
    head, tokens = head_of("pairs"), torch.randn(1, 3, 8)
    vectors = head.input(tokens)[0]
    subject, target = head.subject(vectors[2])[4:8], head.object(vectors[0])[4:8]  # predicate 1 of 4 channels each
    logit = head(tokens, torch.ones(1, 3, dtype=torch.bool))[0, 1, 2, 0]
    torch.testing.assert_close(logit, (subject * target).sum() / 2)


def test_a_token_is_the_mean_over_the_mask_plus_the_class():
    head, feature = head_of(), torch.randn(8, 4, 5)
    masks = torch.zeros(2, 4, 5, dtype=torch.bool)
    masks[0, 1, 2:4] = True
    tokens = head.tokens(feature, Entities(masks, torch.tensor([3, 1])))
    torch.testing.assert_close(tokens[0], feature[:, 1, 2:4].mean(dim=1) + head.class_embedding.weight[3])
    torch.testing.assert_close(tokens[1], head.class_embedding.weight[1])  # an empty mask


def test_a_large_segment_does_not_overflow_half_precision():
    head, feature = head_of(), torch.full((8, 300, 400), 2.0, dtype=torch.float16)
    whole = Entities(torch.ones(1, 300, 400, dtype=torch.bool), torch.tensor([3]))
    with torch.autocast("cpu", torch.float16):
        tokens = head.tokens(feature, whole)
    torch.testing.assert_close(tokens[0], 2.0 + head.class_embedding.weight[3])


def test_tokens_are_padded_and_cut():
    tokens, present = padded([torch.ones(1, 2), torch.ones(5, 2), torch.ones(2, 2)], 4)
    assert tokens.shape == (3, 4, 2)
    assert present.tolist() == [[True, False, False, False], [True] * 4, [True, True, False, False]]
    assert torch.equal(tokens.sum(dim=2) > 0, present)


def test_targets_beyond_the_cut_are_left_out():
    rows = [torch.tensor([[0, 1, 2], [0, 1, 0], [3, 0, 1]]), torch.zeros(0, 3, dtype=torch.int64)]
    targets = relation_targets(rows, predicates=3, entities=3)
    assert targets.nonzero().tolist() == [[0, 0, 0, 1], [0, 2, 0, 1]]


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1))
def test_the_loss_counts_every_pair_of_real_segments(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(2, 2, 3, 3, generator=generator)
    targets = torch.rand(2, 2, 3, 3, generator=generator) < 0.3
    present = torch.tensor([[True, True, True], [True, True, False]])
    terms = []
    for image, count in enumerate((3, 2)):
        for predicate in range(2):
            others = holding = 1.0
            for subject in range(count):
                for target in range(count):
                    logit = float(logits[image, predicate, subject, target])
                    if targets[image, predicate, subject, target]:
                        holding += math.exp(-logit)
                    else:
                        others += math.exp(logit)
            terms.append(math.log(others) + math.log(holding))
    assert float(relation_loss(logits, targets, present)) == pytest.approx(sum(terms) / 4, rel=1e-5)


def test_huge_logits_leave_loss_and_gradient_finite():
    logits = torch.tensor([[[[1e4, -1e4], [0.0, 1e4]]]], requires_grad=True)
    targets = torch.tensor([[[[False, True], [False, True]]]])
    loss = relation_loss(logits, targets, torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert float(loss) == pytest.approx(2e4)
    assert torch.isfinite(logits.grad).all()


def test_statistics_of_a_batch_by_hand():
    logits = torch.full((1, 2, 2, 2), -1.0)
    logits[0, 0, 0, 1] = logits[0, 0, 1, 0] = 1.0  # two claims, one right
    targets = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    targets[0, 0, 0, 1] = targets[0, 1, 0, 1] = True
    found = relation_statistics(logits, targets, torch.ones(1, 2, dtype=torch.bool))
    assert float(found["precision"]) == pytest.approx(1 / 2)
    assert float(found["recall"]) == pytest.approx(1 / 2)
    assert float(found["mean_recall"]) == pytest.approx((1 + 0) / 2)


# --- entities of training images


def target_of(masks, labels, relations=(), semantic=None):
    return Target(
        boxes=torch.zeros(len(labels), 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
        relations=torch.tensor(relations, dtype=torch.int64).reshape(-1, 3),
        semantic=semantic,
    )


def test_entities_have_their_own_masks_in_order():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :32], masks[1, 32:, :32] = True, True
    found = training_entities(target_of(masks, [4, 0]), (16, 16))
    assert found.labels.tolist() == [4, 0]
    assert found.masks.sum(dim=(1, 2)).tolist() == [8 * 16, 8 * 8]


def test_the_original_shrinks_things_and_finds_stuff_by_its_class():
    things = torch.ones(1, 32, 64, dtype=torch.bool)
    class_map = torch.full((8, 16), 4)
    class_map[:, 12:] = 2
    found = original_training_entities(things, torch.tensor([0]), torch.tensor([0, 2, 4]), class_map, (32, 48))
    assert found.labels.tolist() == [0, 2, 4]
    assert found.masks.sum(dim=(1, 2)).tolist() == [8 * 12, 8 * 4, 8 * 12]  # the thing is 48 of 64 wide now


def test_the_original_takes_padding_for_a_person():
    semantic = torch.full((32, 64), 7, dtype=torch.uint8)
    semantic[:, 40:] = 255  # padding
    semantic[:4, :4] = 255  # void
    found = original_class_map(semantic, (32, 40), (8, 16))
    assert (found == 0).sum() == 8 * 6
    assert found[0, 0] == 255


def test_losses_reach_the_features_and_an_image_without_segments_is_no_harm():
    head = SceneGraphHead(SMALL, classes=5, channels=8)
    features = torch.randn(2, 8, 16, 16, requires_grad=True)
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, :20], masks[1, 20:40], masks[2, 40:] = True, True, True
    full = target_of(masks, [0, 1, 4], [[0, 1, 2], [1, 2, 0]])
    empty = target_of(torch.zeros(0, 64, 64, dtype=torch.bool), [])
    sizes = torch.tensor([[64, 64], [64, 64]])
    head.losses(features, [full, empty], sizes)["relation"].backward()
    assert features.grad[0].abs().sum() > 0
    assert features.grad[1].abs().sum() == 0
    assert torch.isfinite(features.grad).all()
    nothing = head.losses(features, [empty, empty], sizes)["relation"]
    assert float(nothing) == 0.0
    nothing.backward()


def test_faults_change_the_loss_only_where_they_were():
    """One image without padding, things first: the original is right."""
    torch.manual_seed(0)
    head = SceneGraphHead(SMALL, classes=5, channels=8).eval()
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[0, :20], masks[1, 20:40], masks[2, 40:] = True, True, True
    semantic = torch.zeros(64, 64, dtype=torch.uint8)
    semantic[20:40], semantic[40:] = 3, 4
    target = target_of(masks, [0, 3, 4], [[0, 1, 2]], semantic)
    features = torch.randn(1, 8, 16, 16)
    right = head.losses(features, [target], torch.tensor([[64, 64]]))["relation"]
    head.settings = Relations(**{**vars(SMALL), "original_faults": True})
    torch.testing.assert_close(head.losses(features, [target], torch.tensor([[64, 64]]))["relation"], right)
    assert head.losses(features, [target], torch.tensor([[64, 50]]))["relation"] != right


# --- a pretrained BERT


def test_a_local_bert_gives_sizes_and_first_layers(tmp_path):
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=11,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=9,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    whole = BertModel(config).eval()
    whole.save_pretrained(tmp_path)
    settings_ = like_pretrained(Relations(**{**vars(SMALL), "bert": str(tmp_path)}))
    head = RelationHead(settings_, classes=5, channels=8).eval()
    load_pretrained(head, settings_)
    inputs, position = torch.randn(1, 4, 24), torch.ones(1, 4, dtype=torch.int64)
    outputs = whole(inputs_embeds=inputs, position_ids=position, output_hidden_states=True)
    ours = head.bert(inputs_embeds=inputs, position_ids=position).last_hidden_state
    torch.testing.assert_close(ours, outputs.hidden_states[2])


def test_a_folder_without_bert_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--relations.bert .*is not a folder with a BERT"):
        like_pretrained(Relations(**{**vars(SMALL), "bert": str(tmp_path)}))
