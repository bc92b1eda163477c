"""Object Detection in the Wild: a folder of data sets, each scored by itself, and the mean of their mAP.

A data set is a folder `test` (else `valid`) with images and one annotation file, as they are published. Beside that
folder `wording.json` may put its classes into other words: [{"prefix": "", "name": "holes", "suffix": " on the road"}].
"""

import json
from collections.abc import Sequence
from pathlib import Path

from common.data.coco import CocoDataset
from common.errors import UserError
from common.run.settings import Training
from common.run.training import Metrics
from glip.network import GLIP
from glip.prompts import Wording, class_prompt
from glip.scoring import evaluate_classes
from maskworks.shards.columns import kept

SPLITS = ("test", "valid")
ANNOTATIONS = ("annotations_without_background.json", "_annotations.coco.json", "annotations.json", "instances.json")


def evaluate_folder(model: GLIP, root: Path, settings: Training) -> tuple[Metrics, dict[str, dict[str, float]]]:
    """{"average": {"AP": ..}, data set: {"AP": .., ..}}, and of each data set {"its name, AP": {class: its AP}}."""
    found = data_sets(root)
    if not found:
        raise UserError(
            f"{root}: no data set in it; expected folders with {' or '.join(SPLITS)} and in that one of "
            + ", ".join(ANNOTATIONS)
        )
    scores: Metrics = {}
    classes: dict[str, dict[str, float]] = {}
    for folder, annotations in found:
        dataset = CocoDataset([annotations.parent], [annotations], limit=settings.limit or None, read=kept)
        prompt = class_prompt(
            dataset.class_names, model.tokeniser, model.config.text, wordings(folder, len(dataset.class_names))
        )
        evaluation = evaluate_classes(model, dataset, settings.batch_size, settings.workers, prompt)
        name = folder.relative_to(root).as_posix()
        scores[name], classes[f"{name}, AP"] = evaluation.metrics["bbox"], evaluation.per_class["bbox AP"]
    average = sum(float(each["AP"]) for each in scores.values()) / len(scores)
    return {"average": {"AP": average}, **scores}, classes


def data_sets(root: Path) -> list[tuple[Path, Path]]:
    """Each data set's folder and its annotation file."""
    found = []
    for folder in sorted({path.parent for split in SPLITS for path in root.rglob(split) if path.is_dir()}):
        files = [folder / split / name for split in SPLITS for name in ANNOTATIONS]
        existing = next((file for file in files if file.is_file()), None)
        if existing is not None:
            found.append((folder, existing))
    return found


def wordings(folder: Path, classes: int) -> Sequence[Wording]:
    file = folder / "wording.json"
    if not file.exists():
        return ()
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        entries = [Wording(str(e["name"]), str(e.get("prefix", "")), str(e.get("suffix", ""))) for e in found]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f'{file}: expected [{{"prefix": "", "name": "holes", "suffix": ""}}, ..] ({error})') from error
    if len(entries) != classes:
        raise UserError(
            f"{file}: {len(entries)} wordings for {classes} classes; give one for each, in order of their ids"
        )
    return entries
