"""That Mask R-CNN learns, and that what it learns comes from the annotations; minutes to an hour each."""

import shlex

import pytest

from tests.learning import CASIA, cpu_minutes, default_run, other_images_annotations, photographs, train

pytestmark = pytest.mark.slow

# eight real photographs, from scratch: larger input, anchors as large as their objects, and masks of 56 x 56
MEMORISE = shlex.split(
    "--limit 8 --batch-size 4 --steps 1000 --epochs 500 --evaluate-every 0 "
    "--augment.long-side 512 --augment.short-sides 384 --augment.flip 0 --test.long-side 512 --test.short-side 384 "
    "--model.mask-resolution 28 --proposals.anchor-sizes 24 48 96 192 384"
)


def test_the_default_run_reaches_its_score_within_its_budget(tmp_path):
    scores, minutes = default_run("maskrcnn", tmp_path)
    assert scores["segm"]["AP"] >= 0.40
    assert minutes <= cpu_minutes(15)


def test_an_untrained_network_scores_nothing(tmp_path):
    scores = train("maskrcnn", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")
    assert scores["segm"]["AP"] < 0.02


def test_a_network_trained_on_other_images_annotations_scores_nothing(tmp_path):
    scores = train("maskrcnn", tmp_path, *other_images_annotations(tmp_path), "--no-report")
    assert scores["segm"]["AP"] < 0.02


@pytest.mark.skipif(not CASIA.exists(), reason="MASKWORKS_DATA names no folder with casia100")
def test_eight_photographs_are_memorised(tmp_path):
    assert train("maskrcnn", tmp_path, *MEMORISE, *photographs())["segm"]["AP"] >= 0.80
