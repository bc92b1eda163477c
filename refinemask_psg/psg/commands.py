"""What train.py and eval.py do for models with relations: other data, other scores."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from common.errors import UserError
from common.run.callbacks import Callback, Run
from maskworks import commands, own_data, report, shapes
from refinemask_psg.augmentation import training_transforms
from refinemask_psg.config import Config
from refinemask_psg.network import DIVISOR, RefineMask
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.data import PsgDataset
from refinemask_psg.psg.scoring import SceneGraphEvaluation, evaluate_scene_graphs, scene_graph_examples
from refinemask_psg.psg.weights import like_pretrained, load_pretrained
from refinemask_psg.weights import initialise, parameter_group

LEFT_OUT = dict.fromkeys(("windows", "copy-paste"), "relations name every segment, and none may get lost")
SCORING = commands.Scoring(
    evaluate_scene_graphs, scene_graph_examples, SceneGraphEvaluation.mistakes, ("relations", "R@20")
)


def open_psg(config: Config, split: shapes.Split) -> PsgDataset:
    """The training or validation set that the configuration names; without annotations, the built-in one."""
    kind = partial(PsgDataset, split=split, original_faults=config.relations.original_faults)
    data = shapes.fill_in(config.data, split, annotations="scene_graph")
    return commands.open_as(kind, data, split, config.training)


def refuse_other_predicates(dataset: PsgDataset, predicates: tuple[str, ...]) -> None:
    """Stop if a data set has not the predicates of a checkpoint, or of the training set."""
    if dataset.predicate_names != predicates:
        raise UserError(
            f"{dataset.file}: its predicates are not those that the model has; use data with the same in the same "
            f"order. Data: {list(dataset.predicate_names)}. Model: {list(predicates)}"
        )


# --- training


def train(config: Config, callbacks: Sequence[Callback] = ()) -> Run:
    """Detector, semantic network and relation head together, or the relation head alone."""
    refuse_settings(config)
    device = commands.start(config.training)
    training_data, validation_data = open_psg(config, "train"), open_psg(config, "val")
    refuse_other_predicates(validation_data, training_data.predicate_names)
    config.relations = described(config, training_data)
    own_data.mirror_no_sides(config, training_data.predicate_names)
    model = commands.build_network(RefineMask, config, training_data.class_names)
    assert model.scene_graph is not None
    load_pretrained(model.scene_graph.relation_head, config.relations)
    initialise(model, config.training.weights)
    run = commands.train(
        "refinemask_psg",
        config,
        model.to(device).to(memory_format=torch.channels_last),
        model.class_names,
        own_data.training_set(training_data, training_transforms(config.augment), config, without=LEFT_OUT),
        validation_data,
        DIVISOR,
        scoring=SCORING,
        parameter_group=parameter_group,
        exports=False,
        callbacks=callbacks,
    )
    report.of_run(run)
    return run


def refuse_settings(config: Config) -> None:
    """Stop where the settings ask for what scene graphs don't have."""
    if not config.model.semantic_head:
        raise UserError("--relations.head: relations need the semantic network too; choose --model.semantic-head")
    if config.model.mask_targets == "polygons":
        raise UserError("--model.mask-targets polygons: segments have no outlines; choose bitmaps")
    if config.augment.crop:
        raise UserError("--augment.crop: a crop may lose segments that relations name; choose 0")


def described(config: Config, training_data: PsgDataset) -> Relations:
    """The settings of relations with what predicting needs to know of the data, as they go into the checkpoint."""
    kinds = [training_data.relations(index)[:, 2] for index in range(len(training_data))]
    counts = np.bincount(np.concatenate(kinds), minlength=len(training_data.predicate_names))
    return replace(
        like_pretrained(config.relations),
        predicates=training_data.predicate_names,
        things=training_data.thing_count,
        predicate_counts=tuple(counts.tolist()),
    )


# --- evaluating


def evaluate(model: RefineMask, config: Config) -> None:
    """Print the tables, the baseline in them, and write metrics.json."""
    config.data = own_data.located(config.data, sys.argv[1:], "scene_graph")
    dataset = open_psg(config, "val")
    commands.refuse_other_classes(dataset, model.class_names)
    refuse_other_predicates(dataset, config.relations.predicates)
    commands.evaluate("refinemask_psg", config, model, dataset, SCORING)
