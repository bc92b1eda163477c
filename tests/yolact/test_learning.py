"""That YOLACT learns, and that what it learns comes from the annotations; minutes to an hour each (make test-slow)."""

import shlex

import pytest

from tests.learning import CASIA, cpu_minutes, default_run, other_images_annotations, photographs, train

pytestmark = pytest.mark.slow

# eight real photographs, from scratch: a larger input, priors for objects of all sizes, and nothing changed
MEMORISE = shlex.split(
    "--limit 8 --batch-size 4 --steps 1000 --epochs 500 --evaluate-every 0 --model.input-size 544 "
    "--model.prototypes 32 --model.scales 24 48 96 192 384 --model.scale-factors 1 1.5 "
    "--augment.crop 0 --augment.flip 0"
)


def test_the_default_run_reaches_its_score_within_its_budget(tmp_path):
    scores, minutes = default_run("yolact", tmp_path)
    assert scores["segm"]["AP"] >= 0.35
    assert minutes <= cpu_minutes(15)


def test_an_untrained_network_scores_nothing(tmp_path):
    assert train("yolact", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")["segm"]["AP"] < 0.02


def test_a_network_trained_on_other_images_annotations_scores_nothing(tmp_path):
    flags = other_images_annotations(tmp_path)
    assert train("yolact", tmp_path, *flags, "--no-report")["segm"]["AP"] < 0.02


@pytest.mark.skipif(not CASIA.exists(), reason="MASKWORKS_DATA names no folder with casia100")
def test_eight_photographs_are_memorised(tmp_path):
    assert train("yolact", tmp_path, *MEMORISE, *photographs())["segm"]["AP"] >= 0.80
