"""Training runs whose score says whether a model learns; minutes to an hour each."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from maskworks import shapes

ROOT = Path(__file__).parents[1]
CASIA = Path(os.environ.get("MASKWORKS_DATA", "nowhere")) / "casia100"
SHARE = 0.8  # of its budget that a default run may take


def train(package: str, folder: Path, *flags: object) -> dict[str, dict[str, float]]:
    """The scores of a training run."""
    line = [sys.executable, str(ROOT / package / "train.py"), "--run", str(folder / "run"), *map(str, flags)]
    subprocess.run(line, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=folder, check=True)
    return json.loads((folder / "run" / "metrics.json").read_text())


def default_run(package: str, folder: Path) -> tuple[dict[str, dict[str, float]], float]:
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
