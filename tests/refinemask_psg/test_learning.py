"""That RefineMask learns, sharper edges than a plain head, and from the annotations; minutes to an hour each."""

import shlex

import pytest

from tests.learning import CASIA, cpu_minutes, default_run, other_images_annotations, photographs, train

pytestmark = pytest.mark.slow

# eight real photographs, from scratch: larger input than the built-in scenes need, and anchors to match
MEMORISE = shlex.split(
    "--limit 8 --batch-size 4 --steps 1300 --epochs 650 --evaluate-every 0 "
    "--augment.long-side 512 --augment.short-sides 384 --augment.flip 0 --test.long-side 512 --test.short-side 384 "
    "--model.anchor-scale 6 --model.finest-scale 56 --model.box-samples 64 "
    "--model.proposals-before-nms 300 --model.proposals 200 "
    "--test.proposals-before-nms 300 --test.proposals 200 --test.max-instances 100"
)


def test_the_default_run_reaches_its_score_within_its_budget(tmp_path):
    scores, minutes = default_run("refinemask_psg", tmp_path)
    assert scores["segm"]["AP"] >= 0.40
    assert minutes <= cpu_minutes(15)


def test_an_untrained_network_scores_nothing(tmp_path):
    scores = train("refinemask_psg", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")
    assert scores["segm"]["AP"] < 0.02


def test_a_network_trained_on_other_images_annotations_scores_nothing(tmp_path):
    flags = other_images_annotations(tmp_path)
    assert train("refinemask_psg", tmp_path, *flags, "--no-report")["segm"]["AP"] < 0.02


def test_u2net_finds_the_foreground_within_its_budget(tmp_path):
    scores, minutes = default_run("refinemask_psg/u2net", tmp_path)
    assert scores["saliency"]["maxF"] >= 0.78
    assert minutes <= cpu_minutes(15)


def test_an_untrained_u2net_does_not_find_the_foreground(tmp_path):
    scores = train("refinemask_psg/u2net", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")
    assert scores["saliency"]["maxF"] < 0.55  # what claiming every pixel gets, or little more
    assert scores["saliency"]["S"] < 0.55


@pytest.mark.skipif(not CASIA.exists(), reason="MASKWORKS_DATA names no folder with casia100")
def test_eight_photographs_are_memorised(tmp_path):
    assert train("refinemask_psg", tmp_path, *MEMORISE, *photographs())["segm"]["AP"] >= 0.80
