"""Scene graphs as a newcomer makes them: train, evaluate, predict, submit."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch

import refinemask_psg
from common.errors import UserError
from common.run import checkpoint
from maskworks import shapes
from refinemask_psg.psg import commands as psg_commands
from refinemask_psg.psg.data import PsgDataset
from refinemask_psg.psg.predict import PredictScenes, submit
from refinemask_psg.psg.submission_check import check_submission, open_submission
from tests.running import evaluation, run
from tests.small import trained


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("psg", tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="module")
def made(folder) -> shapes.ShapesFolder:
    """Its validation set."""
    return shapes.ensure("val", seed=5, count=6, cache=folder)


def test_training_scores_relations_and_the_baseline(weights):
    metrics = json.loads((weights.parent / "metrics.json").read_text())
    assert {"panoptic", "relations", "relations_baseline", "predcls", "predcls_baseline"} <= metrics.keys()
    assert {"R@20", "mR@20", "R@50", "mR@50", "R@100", "mR@100", "final"} <= metrics["relations"].keys()
    assert metrics["predcls_baseline"]["R@100"] > 0
    assert 0 <= metrics["predcls"]["f1"] <= 1
    assert set(metrics["predcls"]["per_class"]) <= set(refinemask_psg.load(weights).config.relations.predicates)
    assert (weights.parent / "report.html").exists()


def test_the_checkpoint_knows_the_data(weights):
    relations = refinemask_psg.load(weights).config.relations
    assert relations.predicates[0] == "left of"
    assert relations.things == 8
    assert sum(relations.predicate_counts) > 0


def test_eval_gives_the_same_scores(weights, tmp_path, capsys):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    model = refinemask_psg.load(weights)
    model.config.training.run, model.config.training.weights = str(tmp_path / "again"), str(weights)
    psg_commands.evaluate(model, model.config)
    said = capsys.readouterr().out
    assert "relations_baseline" in said
    assert json.loads((evaluation(said, tmp_path) / "metrics.json").read_text()) == trained


def test_the_relation_head_alone_leaves_the_detector_as_it_is(weights, tmp_path):
    config = refinemask_psg.load(weights).config
    config.training.weights, config.training.run = str(weights), str(tmp_path / "alone")
    config.training.report, config.relations.freeze_detector, config.optimizer.ema = False, True, 0.0
    psg_commands.train(config)
    before, after = (checkpoint.load(path).weights for path in (weights, tmp_path / "alone" / "last.safetensors"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith("scene_graph.") for name in changed)
    terms = json.loads((tmp_path / "alone" / "log.jsonl").read_text().splitlines()[0])
    assert "relation" in terms
    assert "mask" not in terms


REFUSED = {
    "--model.mask-targets polygons": lambda config: setattr(config.model, "mask_targets", "polygons"),
    "--augment.crop": lambda config: setattr(config.augment, "crop", 0.5),
    "--relations.head": lambda config: setattr(config.model, "semantic_head", False),
}


@pytest.mark.parametrize("flag", REFUSED)
def test_settings_that_scene_graphs_cannot_have_are_refused(flag):
    config = deepcopy(refinemask_psg.VARIANTS["psg_shapes"])
    config.model.mask_targets = "bitmaps"
    REFUSED[flag](config)
    with pytest.raises(UserError, match=f"^{flag}"):
        psg_commands.train(config)


def test_other_predicates_are_refused_with_both_lists(made):
    dataset = PsgDataset([made.root], [made.scene_graph], "val")
    with pytest.raises(UserError, match=r"psg\.json: its predicates are not .*'left of'.*'riding'"):
        psg_commands.refuse_other_predicates(dataset, ("riding",))


def test_predict_draws_and_writes_relations(made, weights, tmp_path):
    run("refinemask_psg/predict.py", "--weights", weights, made.images, "--limit", "2", cwd=tmp_path)
    content = json.loads((tmp_path / "predictions" / "predictions.json").read_text())
    assert len(content["annotations"]) == 2
    relation = content["annotations"][0]["relations"][0]
    assert {"subject", "object", "predicate", "name", "score"} <= relation.keys()
    assert len(list((tmp_path / "predictions" / "drawings").iterdir())) == 2
    assert len(list((tmp_path / "predictions" / "panoptic").iterdir())) == 2


def test_a_submission_has_every_image_and_no_faults(made, weights, tmp_path):
    options = PredictScenes([str(made.root)], str(weights), submission=str(tmp_path / "out"), device="cpu")
    options.annotations = str(made.scene_graph)
    submit(refinemask_psg.load(weights), options)
    submission = open_submission(tmp_path / "out" / "submission.zip")
    faults, _ = check_submission(submission, made.scene_graph)
    assert faults == []
    assert len(submission.entries) == 6
    assert max(len(entry.relations) for entry in submission.entries) == 20


def test_a_submission_of_a_missing_image_is_refused(made, weights, tmp_path):
    options = PredictScenes([str(tmp_path)], str(weights), submission=str(tmp_path / "out"), device="cpu")
    options.annotations = str(made.scene_graph)
    with pytest.raises(UserError, match=r"no such image"):
        submit(refinemask_psg.load(weights), options)
