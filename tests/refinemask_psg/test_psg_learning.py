"""Does the chain from entities over the loss to triplets learn what it is shown?"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.data.batches import Target
from maskworks import shapes
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.data import PsgDataset
from refinemask_psg.psg.metrics import Graph, recall_of, recalls
from refinemask_psg.psg.relation_head import relations_from
from refinemask_psg.psg.scene_graph import SceneGraphHead, training_entities

SIDE = 24


def places() -> torch.Tensor:
    """Features that say where they are: [16, SIDE, SIDE]."""
    axis = torch.linspace(0, 3, SIDE)
    waves = [wave(frequency * axis) for frequency in (1, 2, 4, 8) for wave in (torch.sin, torch.cos)]
    rows = [each[:, None].expand(SIDE, SIDE) for each in waves]
    return torch.stack(rows + [each.T for each in rows])


@pytest.mark.parametrize("kind", ["bert", "pairs"])
def test_relations_of_a_few_scenes_are_memorised(tmp_path, kind):
    made = shapes.write(tmp_path / "scenes", "train", 0, 6)
    dataset = PsgDataset([made.root], [made.scene_graph], "train")
    settings = Relations(
        head=kind,
        predicates=dataset.predicate_names,
        things=8,
        layers=1,
        hidden=64,
        attention_heads=2,
        intermediate=64,
        positions=2,
        dropout=0.0,
        pair_channels=16,
        loss_weight=1.0,
    )
    torch.manual_seed(0)
    head = SceneGraphHead(settings, len(dataset.class_names), channels=16)
    features, targets, truths = places().expand(len(dataset), -1, -1, -1), [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        kept = ~sample.crowd
        masks = F.interpolate(torch.from_numpy(sample.masks[kept])[None].float(), (96, 96))[0].bool()
        relations = torch.from_numpy(sample.relations)
        labels = torch.from_numpy(sample.labels[kept])
        targets.append(Target(torch.zeros(len(labels), 4), labels, masks, relations=relations))
        truths.append(Graph(sample.labels[kept], masks.numpy(), sample.relations))
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        head.losses(features, targets, torch.full((len(dataset), 2), 96))["relation"].backward()
        optimizer.step()
    found = []
    for index, truth in enumerate(truths):
        tokens = head.relation_head.tokens(features[index], training_entities(targets[index], (SIDE, SIDE)))
        logits = head.relation_head(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool))[0]
        relations = relations_from(logits, torch.ones(len(tokens)), 20)
        triplets = np.array([(each.subject, each.object, each.predicate) for each in relations])
        found.append(recall_of(truth, Graph(truth.labels, truth.regions, triplets)))
    assert recalls(found, len(dataset.predicate_names)).summary()["R@20"] >= 0.9
