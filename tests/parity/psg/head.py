"""The relation head's cases: merge, entities, logits and triplets of one image; loss and gradients of a batch."""

import re
from dataclasses import replace

import numpy as np
import torch

from common.data.batches import Prepared
from common.errors import UserError
from common.results import Instances
from maskworks.published.renaming import rename
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.convert import RELATION_RULES, RELATION_UNUSED, relation_settings
from refinemask_psg.psg.panoptic_merge import VOID, Merged, entities, entity_masks, merge, semantic_map
from refinemask_psg.psg.relation_head import (
    Entities,
    RelationHead,
    best_relations,
    padded,
    ranking,
    relation_loss,
    relation_statistics,
    relation_targets,
)
from refinemask_psg.psg.scene_graph import SceneGraphHead, original_training_entities
from tests.parity import rules
from tests.parity.case import Array, Case, sample
from tests.parity.networks import array, gradients, published_checkpoint
from tests.parity.rules import Rule

OURS = "scene_graph."
VAL_THRESHOLD = 0.4
GRADIENT_SAMPLE, FEATURE_SAMPLE = 2000, 4000
STATISTICS = {"F1": "f1", "precise": "precision", "recall": "recall"}


def compute(case: Case, device: str) -> dict[str, Array]:
    head, names = build(case)
    head = head.to(device)
    computed = infer(case, head, device) if "feature" in case.inputs else {}
    return computed | (train(case, head, names, device) if "train_feature" in case.inputs else {})


def build(case: Case) -> tuple[RelationHead, dict[str, str]]:
    """The head with the weights of the made-up checkpoint, strictly, and published name -> ours."""
    state = published_checkpoint(case)
    names = {name: rename(name, RELATION_RULES) for name in state if not re.fullmatch(RELATION_UNUSED, name)}
    settings = case_settings(case, relation_settings(state))
    classes, channels = state["roi_head.rela_cls_embed.weight"].shape
    head = SceneGraphHead(settings, classes, channels)
    weights = {name.removeprefix(OURS): state[published] for published, name in names.items()}
    head.load_state_dict(weights, strict=True)
    inner = f"{OURS}relation_head."
    return head.relation_head.eval(), {published: name.removeprefix(inner) for published, name in names.items()}


def case_settings(case: Case, found: Relations) -> Relations:
    """What the weights say; the case may know better how many attention heads share them."""
    stated = case.spec["settings"]
    return replace(found, attention_heads=stated.get("heads", found.attention_heads), dropout=0.0)


@torch.no_grad()
def infer(case: Case, head: RelationHead, device: str) -> dict[str, Array]:
    """From detections and semantic logits to triplets, with the original's faults."""
    stated = case.spec["settings"]
    if len(case.inputs["feature"]) != 1:
        raise UserError(f"{case.name}: the detections are of one image, the features of {len(case.inputs['feature'])}")
    classes, things = stated["num_classes"], stated["num_things"]
    prepared = prepared_of(stated["infer_meta"])
    semantic = semantic_map(case.tensor("semantic_logits", device)[0].float(), prepared)
    instances = detections(case, classes, device)
    submitted = merge(semantic, instances, things, stated["score_threshold"], original_faults=True)
    in_turn = merge(semantic, instances, things, VAL_THRESHOLD, by_area=False, original_faults=True)
    ids, scores = entities(submitted, classes)
    feature = case.tensor("feature", device)[0].float()
    masks = entity_masks(submitted.ids, ids, prepared, (feature.shape[1], feature.shape[2]))
    tokens = head.tokens(feature, Entities(masks, (ids % stated["instance_offset"]).long()))
    logits = head(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool, device=device))
    ranks = ranking(logits[0], scores)
    return {
        "infer/panoptic_map": numbered(submitted, stated["void_id"]),
        "infer/panoptic_score": array(submitted.scores),
        "infer/entity_ids": array(ids),
        "infer/entity_scores": array(scores),
        "infer/entity_embedding": array(tokens[None]),
        "infer/relation_logits": array(logits),
        "infer/ranking_scores": array(ranks.exp()),
        "infer/triplets": array(best_relations(ranks, stated["top_k"])[0]),
        "val/panoptic_map": numbered(in_turn, classes, classes),
    }


def prepared_of(meta: dict[str, list[int]]) -> Prepared:
    sizes = {name: (meta[name][0], meta[name][1]) for name in ("ori_shape", "img_shape", "pad_shape")}
    return Prepared(torch.zeros(3, *sizes["pad_shape"]), sizes["ori_shape"], sizes["img_shape"])


def detections(case: Case, classes: int, device: str) -> Instances:
    boxes = case.tensor("det_boxes", device)
    masks = torch.from_numpy(case.unpacked("det_masks")).to(device)
    labels = case.tensor("det_labels", device)
    names = tuple(f"class {index}" for index in range(classes))
    return Instances(boxes[:, 4], labels, boxes[:, :4], masks, (masks.shape[1], masks.shape[2]), names)


def numbered(merged: Merged, void: int, spare: int | None = None) -> Array:
    """The map with the original's number for void; during training that is the spare channel's."""
    ids = array(merged.ids)
    return np.where(ids == VOID, void if spare is None else spare, ids)


def train(case: Case, head: RelationHead, names: dict[str, str], device: str) -> dict[str, Array]:
    """Tokens, logits, loss, statistics and gradients of the training batch."""
    stated = case.spec["settings"]
    feature = case.tensor("train_feature", device).float().requires_grad_()
    rows, relations = [], []
    if len(stated["train_metas"]) != len(feature):
        raise UserError(f"{case.name}: train_metas tells of {len(stated['train_metas'])} of {len(feature)} images")
    for image, meta in enumerate(stated["train_metas"]):
        masks = torch.from_numpy(case.unpacked(f"gt_masks/{image}")).to(device)
        found = original_training_entities(
            masks,
            case.tensor(f"gt_labels/{image}", device),
            case.tensor(f"gt_segment_categories/{image}", device),
            case.tensor("gt_semantic_seg", device)[image, 0].long(),
            (meta["img_shape"][0], meta["img_shape"][1]),
        )
        rows.append(head.tokens(feature[image], found))
        relations.append(case.tensor(f"gt_relations/{image}", device))
    tokens, present = padded(rows, stated["num_entity_max"])
    logits = head(tokens, present)
    targets = relation_targets(relations, head.predicates, tokens.shape[1])
    loss = stated["loss_weight"] * relation_loss(logits, targets, present)
    loss.backward()
    computed = {
        "train/entity_embedding": array(tokens),
        "train/relation_logits": array(logits),
        "loss/loss_relationship": array(loss),
    }
    figures = relation_statistics(logits.detach(), targets, present)
    for theirs, ours in STATISTICS.items():
        computed[f"loss/rela.{theirs}"] = array(100 * figures[ours])
        computed[f"loss/rela.{theirs}_mean"] = array(100 * figures[f"mean_{ours}"])
    found_gradients = gradients(head, names)
    for published, gradient in found_gradients.items():
        computed |= gradient_outputs(published, gradient, GRADIENT_SAMPLE)
    assert feature.grad is not None
    return computed | gradient_outputs("feature", array(feature.grad), FEATURE_SAMPLE)


def gradient_outputs(name: str, gradient: Array, limit: int) -> dict[str, Array]:
    norm = torch.from_numpy(gradient).norm()  # in float32 like the case's, which is off by 2e-4 for large matrices
    return {f"grad/{name}": array(norm), f"grad_sample/{name}": sample(gradient, limit)}


def rule(case: Case, name: str) -> Rule | None:
    """The spec's tolerances."""
    stated = case.spec.get("tolerance", {})
    if name in ("infer/triplets", "infer/entity_ids", "infer/panoptic_map", "val/panoptic_map"):
        return rules.exact()
    if name.startswith(("grad/", "grad_sample/")):
        return rules.relative(rules.stated(stated.get("grad and grad_sample"), 5e-4))
    known = r"infer/(panoptic_score|entity_(scores|embedding)|relation_logits|ranking_scores)|train/.+|loss/.+"
    return rules.relative(rules.stated(stated.get("default"), 5e-5)) if re.fullmatch(known, name) else None
