"""A flag of predict.py that nothing would look at is refused by name, before any weights are read."""

import shlex

import pytest

from common.errors import UserError
from tests.running import call


@pytest.mark.parametrize(
    ("package", "flags", "said"),
    [
        ("refinemask_psg", "--size 320", "--size.*--model u2net"),
        ("refinemask_psg", "--annotations psg.json", "--annotations.*--submission"),
        ("refinemask_psg", "--submission made --out found", "--submission and --out"),
        ("refinemask_psg", "--submission made --model u2net", "--submission: U-2-Net"),
        ("refinemask_psg", "--format coco --model u2net", "--format.*a detector's objects"),
        ("refinemask_psg", "--format coco --submission made", "--format.*a detector's objects"),
        ("upsnet", "--format coco", "--format: no such flag"),
        ("glip", "--spans 0:3", "--spans.*--prompt"),
        ("pose2seg", "--keypoints k.json --smallest-score 0.5", "--smallest-score.*--detector"),
        ("pose2seg", "--keypoints k.json --smallest-joint-score 0.5", "--smallest-joint-score.*--detector"),
        ("pose2seg", "--detector d.pth --smallest-confidence 0.5", "--smallest-confidence.*--keypoints"),
    ],
)
def test_a_flag_that_nothing_looks_at_is_refused(package, flags, said):
    with pytest.raises(UserError, match=said):
        call(f"{package}.predict", "street.jpg", "--weights", "none.safetensors", *shlex.split(flags))
