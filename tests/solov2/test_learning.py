"""That SOLOv2 learns, and that what it learns comes from the annotations; minutes to an hour each (make test-slow)."""

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from common import shapes

ROOT = Path(__file__).parents[2]
CASIA = Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "casia100"
BUDGET = 0.8 * 15 * 60 * 2  # CPU seconds of the default run: 80 % of 15 minutes on two cores
pytestmark = pytest.mark.slow

# eight real photographs, from scratch: finer grids and larger input than the built-in scenes need
MEMORISE = shlex.split(
    "--limit 8 --batch-size 4 --steps 1000 --epochs 500 --evaluate-every 0 --model.grids 40 36 24 16 12 "
    "--augment.long-side 640 --augment.short-sides 416 448 480 --test.long-side 640 --test.short-side 480 "
    "--model.mask-loss-weight 3"
)


def run(script: str, folder: Path, *flags: object) -> dict[str, dict[str, float]]:
    line = [sys.executable, str(ROOT / "solov2" / script), "--run", str(folder / "run"), *map(str, flags)]
    subprocess.run(line, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=folder, check=True)
    return json.loads((folder / "run" / "metrics.json").read_text())


def test_the_default_run_reaches_its_score_within_its_budget(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    score = run("train.py", tmp_path)["segm"]["AP"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"segm AP {score:.3f}, {seconds:.0f} CPU seconds")
    assert 0.40 <= score <= 0.75
    assert seconds <= BUDGET


def test_an_untrained_network_scores_nothing(tmp_path):
    assert run("train.py", tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")["segm"]["AP"] < 0.02


def test_a_network_trained_on_other_images_annotations_scores_nothing(tmp_path):
    made = shapes.ensure("train")
    content = json.loads(made.instances.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    random = np.random.RandomState(0)
    moved = {}
    for size in sorted(set(sizes.values())):  # among images of one size, so that every annotation still fits
        identities = [identity for identity, other in sizes.items() if other == size]
        moved |= dict(zip(identities, random.permutation(identities).tolist(), strict=True))
    for annotation in content["annotations"]:
        annotation["image_id"] = moved[annotation["image_id"]]
    (tmp_path / "shuffled.json").write_text(json.dumps(content))
    data = ["--data.train.images", made.images, "--data.train.annotations", tmp_path / "shuffled.json"]
    assert run("train.py", tmp_path, *data, "--no-report")["segm"]["AP"] < 0.02


@pytest.mark.skipif(not CASIA.exists(), reason="MASKWORKS_DATA names no folder with casia100")
def test_eight_photographs_are_memorised(tmp_path):
    data = []
    for split in ("train", "val"):
        data += [f"--data.{split}.images", CASIA, f"--data.{split}.annotations", CASIA / "annotations.json"]
    assert run("train.py", tmp_path, *MEMORISE, *data)["segm"]["AP"] >= 0.80
