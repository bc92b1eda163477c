"""That SOLOv2 learns, and that what it learns comes from the annotations; minutes to an hour each (make test-slow)."""

import shlex

import pytest

from tests.learning import CASIA, cpu_minutes, default_run, other_images_annotations, photographs, train

pytestmark = pytest.mark.slow

# eight real photographs, from scratch: finer grids and larger input than the built-in scenes need
MEMORISE = shlex.split(
    "--limit 8 --batch-size 4 --steps 1000 --epochs 500 --evaluate-every 0 --model.grids 40 36 24 16 12 "
    "--augment.long-side 640 --augment.short-sides 416 448 480 --test.long-side 640 --test.short-side 480 "
    "--model.mask-loss-weight 3"
)


def test_the_default_run_reaches_its_score_within_its_budget(tmp_path):
    scores, minutes = default_run("solov2", tmp_path)
    assert 0.40 <= scores["segm"]["AP"] <= 0.75
    assert minutes <= cpu_minutes(15)


def test_an_untrained_network_scores_nothing(tmp_path):
    assert train("solov2", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")["segm"]["AP"] < 0.02


def test_a_network_trained_on_other_images_annotations_scores_nothing(tmp_path):
    flags = other_images_annotations(tmp_path)
    assert train("solov2", tmp_path, *flags, "--no-report")["segm"]["AP"] < 0.02


@pytest.mark.skipif(not CASIA.exists(), reason="MASKWORKS_DATA names no folder with casia100")
def test_eight_photographs_are_memorised(tmp_path):
    assert train("solov2", tmp_path, *MEMORISE, *photographs())["segm"]["AP"] >= 0.80
