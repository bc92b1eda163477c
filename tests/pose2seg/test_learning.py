"""That Pose2Seg learns, and that what it learns comes from the masks; minutes each (make test-slow)."""

import json

import numpy as np
import pytest

from maskworks import shapes
from tests.learning import cpu_minutes, default_run, train

pytestmark = pytest.mark.slow


def test_the_default_run_reaches_its_score_within_its_budget(tmp_path):
    scores, minutes = default_run("pose2seg", tmp_path)
    assert scores["segm"]["AP"] >= 0.55
    assert minutes <= cpu_minutes(15)


def test_an_untrained_network_scores_nothing(tmp_path):
    assert train("pose2seg", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")["segm"]["AP"] < 0.02


def test_a_network_trained_on_other_peoples_masks_scores_little(tmp_path):
    """Joints of one person with the mask of another: what is left to learn is that people are in the middle."""
    made = shapes.ensure("train")
    content = json.loads(made.keypoints.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    people = [entry for entry in content["annotations"] if not entry["iscrowd"]]
    random = np.random.RandomState(0)
    for size in sorted(set(sizes.values())):  # among images of one size, so that every mask still fits
        same = [entry for entry in people if sizes[entry["image_id"]] == size]
        masks = [entry["segmentation"] for entry in same]
        for entry, other in zip(same, random.permutation(len(same)).tolist(), strict=True):
            entry["segmentation"] = masks[other]
    (tmp_path / "shuffled.json").write_text(json.dumps(content))
    flags = ["--data.train.images", made.images, "--data.train.annotations", tmp_path / "shuffled.json"]
    assert train("pose2seg", tmp_path, *flags, "--no-report", "--epochs", 4)["segm"]["AP"] < 0.05
