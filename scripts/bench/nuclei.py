"""How well SOLOv2, YOLACT and Mask R-CNN learn real pictures of cell nuclei from nothing, within so many minutes.

python scripts/bench/nuclei.py                                       the repository's 80 pictures, 30 minutes each
python scripts/bench/nuclei.py --data FOLDER --minutes 30            another folder, as train.py's --data takes it

Scores are of the validation pictures: COCO's AP and AP50 of masks, and what this field reports, TP / (TP + FN + FP)
over all pictures, of what scores at least the cut. The cut is one for all, chosen on training pictures.
"""

import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from common.data.coco import CocoDataset
from common.run.evaluation import Evaluation, evaluate_instances, scored_for
from common.run.settings import Data, Images
from maskworks import own_data
from maskworks.report.mistakes import measure

OVERLAPS = (0.5, 0.6, 0.7, 0.8, 0.9)
CUTS = np.arange(0.05, 0.95, 0.05)
CHOSEN_ON = 60  # training pictures
PUBLISHED = {"Mask R-CNN": 0.832, "StarDist": 0.864}  # arXiv 1806.03535, table 1, at IoU 0.5


def main(
    data: str = "datasets/nuclei",
    minutes: float = 30.0,
    out: Path = Path("runs/nuclei"),
    flags: str = "",
    packages: tuple[str, ...] = ("solov2", "yolact", "maskrcnn"),
) -> None:
    """`flags`, in one word, go to every train.py."""
    found = own_data.located(Data(path=data))
    train, val = (opened(named, limit) for named, limit in ((found.train, CHOSEN_ON), (found.val, None)))
    limit = max(100, *(int(counted.counts()[0].max()) for counted in (train, val)))
    scored: dict[str, tuple[Evaluation, Evaluation]] = {}
    for package in packages:
        run = out / package
        asked = ["--data", data, "--minutes", str(minutes), "--run", str(run), "--no-report", *shlex.split(flags)]
        subprocess.run([sys.executable, "-m", f"{package}.train", *asked], check=True, stdout=sys.stderr)
        model = own_data.as_trained(importlib.import_module(package).load(run / "best.safetensors"))
        of_train, of_val = (evaluate_instances(model, each, 8, 0, limit=limit) for each in (train, val))
        scored[package] = of_train, of_val
    means = [np.mean([field_score(train, of_train, cut, 0.5) for of_train, _ in scored.values()]) for cut in CUTS]
    cut = float(CUTS[int(np.argmax(means))])
    print(f"{len(val)} validation pictures, {minutes:g} minutes each; up to {limit} detections; cut at {cut:.2f},")
    print(f"the best for all together on {len(train)} training pictures\n")
    print(f"{'':12}{'AP':>8}{'AP50':>8}" + "".join(f"{f'IoU {overlap}':>10}" for overlap in OVERLAPS))
    for package, (_, of_val) in scored.items():
        summary = of_val.details["segm"].summary
        values = "".join(f"{field_score(val, of_val, cut, overlap):10.3f}" for overlap in OVERLAPS)
        print(f"{package:12}{summary['AP']:8.3f}{summary['AP50']:8.3f}{values}")
    print("\nFor comparison, as published on another split of this set (arXiv 1806.03535, table 1), at IoU 0.5:")
    print(", ".join(f"{name} {value}" for name, value in PUBLISHED.items()))


def opened(named: Images, limit: int | None) -> CocoDataset:
    return CocoDataset(named.images, named.annotations, limit=limit)


def field_score(dataset: CocoDataset, evaluation: Evaluation, cut: float, overlap: float) -> float:
    there, right, claimed = 0, 0, 0
    annotations = dataset.annotations_json()
    detections = scored_for("segm", evaluation.detections)
    for image in annotations["images"]:
        truth = [entry for entry in annotations["annotations"] if entry["image_id"] == image["id"]]
        found = [each for each in detections if each["image_id"] == image["id"] and each["score"] >= cut]
        found.sort(key=lambda each: -float(each["score"]))
        overlaps = measure(found, truth, np.zeros(len(truth), bool), (image["height"], image["width"]), "segm")
        right += matched(overlaps, overlap)
        there, claimed = there + len(truth), claimed + len(found)
    return right / max(1, there + claimed - right)


def matched(overlaps: NDArray[np.float64], overlap: float) -> int:
    """How many claims [claims, objects], the surest first, find an object that no other has found."""
    left, count = overlaps.copy(), 0
    for row in left:
        if len(row) and row[best := int(row.argmax())] >= overlap:
            left[:, best] = 0.0
            count += 1
    return count


if __name__ == "__main__":
    tyro.cli(main)
