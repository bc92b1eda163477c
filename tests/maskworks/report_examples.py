"""A training report and a prediction report with everything in them, hostile names too."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.results import Instances
from maskworks.report import of_folder
from maskworks.report.details import PredictionDetails, RunDetails, Shown, read, save_picture, write, write_run_details
from maskworks.report.examples import Example
from maskworks.report.mistakes import Mistakes

HOSTILE = "</script><script>document.title='broken'</script><b>&\"'"
NAMES = ("cat", HOSTILE, "三角")


def make_instances(labels: list[int], scores: list[float]) -> Instances:
    count = len(labels)
    masks = torch.zeros(count, 40, 60, dtype=torch.bool)
    masks[:, 10:30, 10:30] = True
    return Instances(
        scores=torch.tensor(scores),
        labels=torch.tensor(labels, dtype=torch.int64),
        boxes=torch.tensor([[10.0, 10.0, 30.0, 30.0]]).repeat(count, 1),
        masks=masks,
        size=(40, 60),
        class_names=NAMES,
        image=np.full((40, 60, 3), 120, np.uint8),
    )


def write_log(path: Path) -> None:
    lines: list[dict[str, Any]] = []
    for step in range(1, 21):
        lines.append({"step": step, "epoch": step // 10, "loss": 2.0 / step, "lr": 0.01, "images_per_second": 12.5})
        if step % 10 == 0:
            lines.append({"step": step, "epoch": step // 10, "metrics": {"segm": {"AP": step / 50, "AP50": 0.6}}})
    path.write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 21, "lo', encoding="utf-8")


def training_report(folder: Path) -> Path:
    write_log(folder / "log.jsonl")
    images = [np.full((40, 60, 3), 120, np.uint8)] * 2
    examples = [
        Example("one.png", images[0], make_instances([0], [1.0]), make_instances([0, 1], [0.9, 0.1])),
        Example(HOSTILE, images[1], make_instances([], []), make_instances([], [])),
    ]
    confusion = np.array([[5, 1, 0, 2], [3, 0, 0, 0], [0, 0, 4, 0], [1, 0, 0, 0]])
    metrics = {
        "segm": {"AP": 0.4, "APl": -1.0},
        "panoptic": {"All": {"pq": 0.5, "n": 3}, "per_class": {1: {"pq": 0.5}}},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "config.yaml").write_text("epochs: 12\nmean: [1.0, 2.0]\nrun: </pre>\n")
    write_run_details(
        folder,
        f"a run {HOSTILE}",
        examples,
        Mistakes(NAMES, confusion, np.array([0.75, 0.25]), 0.3),
        {"AP": {"cat": 0.25, HOSTILE: 0.75, "三角": math.nan}, "PQ": {}},
        {"cat": np.linspace(1, 0, 101), HOSTILE: np.full(101, 0.5), "三角": np.full(101, np.nan)},
        0.3,
    )
    details = read(folder, RunDetails)
    details.command = "python train.py --name '</pre>'"
    write(folder, details)
    of_folder(folder)
    return folder / "report.html"


def prediction_report(folder: Path) -> Path:
    shown = []
    for name, labels, scores in [
        ("a.jpg", [0, 0], [0.9, 0.4]),
        ("b.jpg", [1], [0.6]),
        (HOSTILE, [0], [0.3]),
        ("empty.jpg", [], []),
    ]:
        picture = f"drawings/{len(shown)}.jpg"
        save_picture(folder / picture, make_instances(labels, scores).draw())
        shown.append(Shown(name, [picture], labels, scores))
    skipped = [("broken.jpg", f"not an image {HOSTILE}"), ("odd?.jpg", "empty file")]
    return gallery(folder, shown, skipped)


def gallery(folder: Path, shown: list[Shown], skipped: list[tuple[str, str]], threshold: float = 0.3) -> Path:
    write(folder, PredictionDetails("Predictions", threshold, list(NAMES), shown, skipped))
    of_folder(folder)
    return folder / "report.html"
