"""That every package learns within its budget, and from the annotations; minutes to an hour each (make test-slow)."""

import json
import os
import resource
import shlex
import subprocess
import sys
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glip
from glip.captioned_data import CaptionedDataset, PhraseClasses
from glip.prompts import class_prompt
from glip.scoring import evaluate_classes
from maskworks import shapes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CASIA = Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "casia100"
SHARE = 0.8  # of its budget that a default run may take


def train(package: str, folder: Path, *flags: object) -> dict[str, Any]:
    """The scores of a training run."""
    line = [sys.executable, str(ROOT / package / "train.py"), "--run", str(folder / "run"), *map(str, flags)]
    subprocess.run(line, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=folder, check=True)
    return json.loads((folder / "run" / "metrics.json").read_text())


def default_run(package: str, folder: Path) -> tuple[dict[str, Any], float]:
    """The scores of `python train.py` and the CPU minutes it took, loading and evaluation included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    scores = train(package, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    print(f"{package}: {scores}, {minutes:.1f} CPU minutes")
    return scores, minutes


def cpu_minutes(minutes: float) -> float:
    """What a default run may take of a budget of so many minutes on two cores."""
    return SHARE * 2 * minutes


def photographs() -> list[object]:
    """The flags that train and validate on real photographs."""
    flags: list[object] = []
    for split in ("train", "val"):
        flags += [f"--data.{split}.images", CASIA, f"--data.{split}.annotations", CASIA / "annotations.json"]
    return flags


def other_images_annotations(folder: Path) -> list[object]:
    """The flags of a training set in which every image has the annotations of another one."""
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
    (folder / "shuffled.json").write_text(json.dumps(content))
    return ["--data.train.images", made.images, "--data.train.annotations", folder / "shuffled.json"]


BUDGETS = {  # of default runs, in minutes on two cores
    **dict.fromkeys(("solov2", "yolact", "maskrcnn", "refinemask_psg", "refinemask_psg/u2net", "pose2seg"), 15),
    **dict.fromkeys(("upsnet", "glip"), 20),
}
REACHED = {  # by default runs: package -> its scores in metrics.json, each more than and at most
    "solov2": {"segm/AP": (0.40, 0.75)},
    "yolact": {"segm/AP": (0.35, 1)},
    "maskrcnn": {"segm/AP": (0.40, 1)},
    "refinemask_psg": {"segm/AP": (0.40, 1)},
    "refinemask_psg/u2net": {"saliency/maxF": (0.78, 1)},
    "pose2seg": {"segm/AP": (0.55, 1)},
    "upsnet": {"panoptic/All/pq": (0.40, 1), "panoptic/Things/pq": (0.25, 1), "panoptic/Stuff/pq": (0.25, 1)},
    "glip": {"seen/AP": (0.35, 1), "unseen/AP": (0.20, 1)},  # colours and shapes that were never seen together
}
UNTRAINED = {  # what is less than this is nothing
    **{package: {"segm/AP": 0.02} for package in ("solov2", "yolact", "maskrcnn", "refinemask_psg", "pose2seg")},
    "refinemask_psg/u2net": {"saliency/maxF": 0.55, "saliency/S": 0.55},  # little more than claiming every pixel
    "upsnet": {"panoptic/All/pq": 0.02},
}
MEMORISE = {  # eight real photographs, from scratch: larger input than the built-in scenes need
    # finer grids
    "solov2": "--model.grids 40 36 24 16 12 --augment.long-side 640 --augment.short-sides 416 448 480 "
    "--test.long-side 640 --test.short-side 480 --model.mask-loss-weight 3 --steps 1000 --epochs 500",
    # priors for objects of all sizes, and nothing changed
    "yolact": "--model.input-size 544 --model.prototypes 32 --model.scales 24 48 96 192 384 "
    "--model.scale-factors 1 1.5 --augment.crop 0 --augment.flip 0 --steps 1000 --epochs 500",
    # anchors as large as their objects, and masks of 56 x 56
    "maskrcnn": "--augment.long-side 512 --augment.short-sides 384 --augment.flip 0 --test.long-side 512 "
    "--test.short-side 384 --model.mask-resolution 28 --proposals.anchor-sizes 24 48 96 192 384 "
    "--steps 1000 --epochs 500",
    # anchors to match
    "refinemask_psg": "--augment.long-side 512 --augment.short-sides 384 --augment.flip 0 --test.long-side 512 "
    "--test.short-side 384 --model.anchor-scale 6 --model.finest-scale 56 --model.box-samples 64 "
    "--model.proposals-before-nms 300 --model.proposals 200 --test.proposals-before-nms 300 --test.proposals 200 "
    "--test.max-instances 100 --steps 1300 --epochs 650",
}


def score(metrics: dict[str, Any], path: str) -> float:
    """segm/AP of metrics.json"""
    return float(reduce(lambda table, key: table[key], path.split("/"), metrics))


@pytest.mark.parametrize("package", BUDGETS)
def test_the_default_run_reaches_its_score_within_its_budget(package, tmp_path):
    scores, minutes = default_run(package, tmp_path)
    for path, (least, most) in REACHED[package].items():
        assert least < score(scores, path) <= most, path
    assert minutes <= cpu_minutes(BUDGETS[package])
    if package == "glip":  # it reads the text
        assert swapped(glip.load(tmp_path / "run" / "best.safetensors")) < 0.05


def swapped(model: glip.GLIP) -> float:
    """Box mAP with each class name in the prompt replaced by another's."""
    made = shapes.ensure("val")
    classes = PhraseClasses(CaptionedDataset([made.images], [made.captions]))
    names = classes.class_names
    others = [names[(place + len(names) // 2) % len(names)] for place in range(len(names))]
    assert not np.any([name == other for name, other in zip(names, others, strict=True)])
    prompt = class_prompt(others, model.tokeniser, model.config.text)
    return float(evaluate_classes(model, classes, 8, 0, prompt).metrics["bbox"]["AP"])


@pytest.mark.parametrize("package", UNTRAINED)
def test_an_untrained_network_scores_nothing(package, tmp_path):
    scores = train(package, tmp_path, "--steps", 1, "--optimizer.lr", 0, "--no-report")
    assert all(score(scores, path) < limit for path, limit in UNTRAINED[package].items()), scores


@pytest.mark.parametrize("package", ["solov2", "yolact", "maskrcnn", "refinemask_psg"])
def test_a_network_trained_on_other_images_annotations_scores_nothing(package, tmp_path):
    scores = train(package, tmp_path, *other_images_annotations(tmp_path), "--no-report")
    assert scores["segm"]["AP"] < 0.02


def test_pose2seg_trained_on_other_peoples_masks_scores_little(tmp_path):
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


@pytest.mark.skipif(not CASIA.exists(), reason="MASKWORKS_DATA names no folder with casia100")
@pytest.mark.parametrize("package", MEMORISE)
def test_eight_photographs_are_memorised(package, tmp_path):
    flags = shlex.split("--limit 8 --batch-size 4 --evaluate-every 0 " + MEMORISE[package])
    assert train(package, tmp_path, *flags, *photographs())["segm"]["AP"] >= 0.80
