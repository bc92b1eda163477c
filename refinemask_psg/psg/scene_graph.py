"""From the detector's features, instances and semantic logits to a scene graph, and the relation head's training."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.batches import Prepared, Target, round_up
from common.results import Instances
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.panoptic_merge import entities, entity_masks, merge, panoptic, semantic_map
from refinemask_psg.psg.relation_head import (
    Entities,
    RelationHead,
    padded,
    relation_loss,
    relation_targets,
    relations_from,
)
from refinemask_psg.psg.results import SceneGraph

DIVISOR = 32
Size = tuple[int, int]  # height, width


class SceneGraphHead(nn.Module):
    """What comes after the detector and the semantic network."""

    def __init__(self, relations: Relations, classes: int, channels: int = 256):
        super().__init__()
        self.settings = relations
        self.relation_head = RelationHead(relations, classes, channels)

    def losses(self, features: Tensor, targets: Sequence[Target], sizes: Tensor) -> dict[str, Tensor]:
        """The weighted relation loss of a batch, from the finest pyramid level [N, C, h, w] and sizes [N, 2]."""
        found = [self._training_entities(features, target, size) for target, size in zip(targets, sizes, strict=True)]
        images = [index for index, each in enumerate(found) if len(each.labels)]
        if not images:  # a zero that every parameter takes part in, as processes wait for each other's gradients
            return {"relation": torch.stack([each.sum() for each in self.parameters()]).sum() * 0.0}
        rows = [self.relation_head.tokens(features[index], found[index]) for index in images]
        tokens, present = padded(rows, self.settings.max_entities)
        logits = self.relation_head(tokens, present)
        told = [targets[index].relations for index in images]
        relations = [targets[0].labels.new_zeros(0, 3) if each is None else each for each in told]
        truth = relation_targets(relations, self.relation_head.predicates, tokens.shape[1])
        return {"relation": self.settings.loss_weight * relation_loss(logits, truth, present)}

    def _training_entities(self, features: Tensor, target: Target, size: Tensor) -> Entities:
        feature_size = (features.shape[2], features.shape[3])
        if not self.settings.original_faults:
            return training_entities(target, feature_size)
        assert target.semantic is not None
        resized = (int(size[0]), int(size[1]))
        height, width = (round_up(side, DIVISOR) for side in resized)
        things = target.labels < self.settings.things
        return original_training_entities(
            target.masks[things, :height, :width],
            target.labels[things],
            target.labels,
            original_class_map(target.semantic, resized, feature_size),
            resized,
        )

    def result(self, feature: Tensor, semantic_logits: Tensor, instances: Instances, prepared: Prepared) -> SceneGraph:
        """One image: feature [C, h, w], semantic logits [classes + 1, h, w], instances with masks -> scene graph."""
        settings = self.settings
        semantic, faults = semantic_map(semantic_logits, prepared), settings.original_faults
        merged = merge(semantic, instances, settings.things, settings.score_threshold, original_faults=faults)
        ids, scores = entities(merged, len(instances.class_names))
        graph = panoptic(merged, ids, scores, settings.things, instances.class_names)
        labels = torch.tensor([info.label for info in graph.infos], device=feature.device, dtype=torch.int64)
        logits = self.pair_logits(feature, merged.ids, ids, labels, prepared)
        return SceneGraph(graph, relations_from(logits, scores, settings.max_relations), settings.predicates)

    def pair_logits(self, feature: Tensor, segments: Tensor, ids: Tensor, labels: Tensor, prepared: Prepared) -> Tensor:
        """For the entities `ids` of a map [H, W], whose labels are [E]: logits [predicates, subjects E, objects E]."""
        if len(ids) == 0:
            return feature.new_zeros(self.relation_head.predicates, 0, 0)
        masks = entity_masks(segments, ids, prepared, (feature.shape[1], feature.shape[2]))
        tokens = self.relation_head.tokens(feature, Entities(masks, labels))
        logits: Tensor = self.relation_head(tokens[None], torch.ones_like(labels[None], dtype=torch.bool))[0]
        return logits


# --- the segments of a training image, and the original's way to get them ---


def training_entities(target: Target, feature_size: Size) -> Entities:
    """Every segment with its own mask, in the order that relations count in."""
    return Entities(nearest(target.masks, feature_size), target.labels)


def original_training_entities(
    thing_masks: Tensor, thing_labels: Tensor, segment_labels: Tensor, class_map: Tensor, resized: Size
) -> Entities:
    """The original's entities: thing masks [n, H, W], padded, then the segments from the nth on by their class alone.

    - That is the annotations' order only where all things come first; elsewhere relations point to other segments.
    - The masks are already at the network input's size, `resized` and padded. The original resizes them to it once
      more, which shrinks them; and it stretches those padded less than the batch.
    - Stuff is where class_map [h, w], at the features' size, has the segment's class.
    """
    feature_size = (class_map.shape[0], class_map.shape[1])
    height, width = thing_masks.shape[1:]
    shrunken = F.pad(nearest(thing_masks, resized), (0, width - resized[1], 0, height - resized[0]))
    others = segment_labels[len(thing_masks) :]
    masks = torch.cat((nearest(shrunken, feature_size), class_map == others[:, None, None]))
    return Entities(masks, torch.cat((thing_labels, others)))


def nearest(masks: Tensor, size: Size) -> Tensor:
    """Masks [n, H, W] bool resized by taking the nearest pixel."""
    if len(masks) == 0:
        return masks.new_zeros(0, *size)
    return F.interpolate(masks[None].to(torch.uint8), size, mode="nearest")[0].to(torch.bool)


def original_class_map(semantic: Tensor, resized: Size, feature_size: Size) -> Tensor:
    """The classes of pixels [H, W] at the features' size; the original pads with class 0, a person."""
    inside = torch.zeros_like(semantic)
    height, width = resized
    inside[:height, :width] = semantic[:height, :width]
    return F.interpolate(inside[None, None], feature_size, mode="nearest")[0, 0].long()
