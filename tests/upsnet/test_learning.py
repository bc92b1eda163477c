"""That UPSNet learns, and keeps within its budget; minutes to half an hour each (make test-slow)."""

import pytest

from tests.learning import cpu_minutes, default_run, train

pytestmark = pytest.mark.slow


def test_the_default_run_reaches_its_scores_within_its_budget(tmp_path):
    scores, minutes = default_run("upsnet", tmp_path)
    quality = scores["panoptic"]
    assert quality["All"]["pq"] >= 0.40
    assert min(quality["Things"]["pq"], quality["Stuff"]["pq"]) > 0.25
    assert minutes <= cpu_minutes(20)


def test_an_untrained_network_scores_nothing(tmp_path):
    scores = train("upsnet", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")
    assert scores["panoptic"]["All"]["pq"] < 0.02
