"""The cases of files: data preparation with the original's faults, and submissions."""

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from common.data.images import read_image
from common.results import Panoptic, Segment
from refinemask_psg.psg.data import PsgDataset
from refinemask_psg.psg.results import Relation, SceneGraph
from refinemask_psg.psg.submission import SubmissionWriter
from scripts.prepare_psg import Prepare, prepare
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.rules import Rule

PNG = "panoptic_png/"


def compute(case: Case, device: str) -> dict[str, Array]:
    del device
    with tempfile.TemporaryDirectory() as folder:
        if (case.folder / "inputs" / "predictions.json").exists():
            return compute_submissions(case, Path(folder))
        return compute_preparation(case, Path(folder))


def rule(case: Case, name: str) -> Rule | None:
    del case
    return Rule("same JSON", 0.0, differs) if name.endswith(".json") else rules.exact()


def differs(computed: Array, expected: Array) -> float:
    """Whether two JSON texts differ, other than in the order of keys; 8 is not 8.0."""
    texts = [json.dumps(json.loads(str(content)), sort_keys=True) for content in (computed, expected)]
    return float(texts[0] != texts[1])


# --- data preparation ---


def compute_preparation(case: Case, folder: Path) -> dict[str, Array]:
    """The prepared files, and what the data set reads from them."""
    inputs = case.folder / "inputs"
    prepare(
        Prepare(
            inputs / "psg_train_val.json",
            inputs / "psg_val_test.json",
            inputs / "instances_val2017.json",
            folder,
            original_faults=True,
        )
    )
    computed = {path.name: rules.as_text(json.loads(path.read_text())) for path in folder.glob("*.json")}
    for name, picture in case.inputs.items():
        path = folder / name.removeprefix(PNG)
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture[..., ::-1])
    for split in ("tra", "val"):
        computed |= parsed(folder, split)
    return computed


def parsed(folder: Path, split: str) -> dict[str, Array]:
    """Every image as the original's loader has it."""
    files = [folder], [folder / f"psg_{split}.json"]
    dataset = PsgDataset(*files, "train", original_faults=True)
    used = set(PsgDataset(*files, "train", original_faults=True, keep_empty=False).image_ids.tolist())
    computed, listed = {}, []
    for index in range(len(dataset)):
        table, segment_map = dataset.segments(index), dataset.segment_map(index)
        crowd = table.crowd & table.is_thing
        things = table.is_thing & ~crowd
        masks = segment_map == table.ids[things][:, None, None]
        image_id = int(dataset.image_ids[index])
        listed.append(
            {
                "image_id": image_id,
                "file_name": dataset.path(index).relative_to(dataset.folder).as_posix(),
                "used_in_training": image_id in used,
                "bboxes": table.boxes[things].tolist(),
                "labels": table.labels[things].tolist(),
                "bboxes_ignore": table.boxes[crowd].tolist(),
                "masks": [
                    {"id": int(segment), "category": int(label), "is_thing": int(thing)}
                    for segment, label, thing in zip(table.ids, table.labels, things, strict=True)
                ],
                "seg_map": dataset.panoptic_path(index).relative_to(dataset.folder).as_posix(),
                "relations": dataset.relations(index).tolist(),
                "gt_masks_shape": list(masks.shape),
            }
        )
        computed[f"{split}/{image_id}/gt_semantic_seg"] = dataset.semantic(table, segment_map)
        computed[f"{split}/{image_id}/gt_masks"] = np.packbits(masks.reshape(-1))
    return computed | {f"parsed_{split}.json": rules.as_text(listed)}


# --- submissions ---


def compute_submissions(case: Case, folder: Path) -> dict[str, Array]:
    """The normal run over every image, and the one over validation images only."""
    inputs = case.folder / "inputs"
    predictions = json.loads((inputs / "predictions.json").read_text())
    validation = set(json.loads((inputs / "psg_train_val.json").read_text())["test_image_ids"])
    known = {entry["image_id"] for entry in json.loads((inputs / "psg_train_val.json").read_text())["data"]}
    computed: dict[str, Array] = {}
    for mode, seed in case.spec["settings"]["random_seed"].items():
        writer = SubmissionWriter(folder / mode, seed)
        for number, prediction in enumerate(predictions):
            if mode == "v3" or prediction["image_id"] in validation & known:
                writer.add(graph_of(prediction, case.inputs[f"{number}/pan_results"]), number)
        with zipfile.ZipFile(writer.finish()) as archive:
            if sorted(archive.namelist()) != sorted(case.spec["settings"]["files_in_zip"][mode]):
                raise AssertionError(f"{mode}: the zip has other files than the original's: {archive.namelist()}")
        written = folder / mode / "submission"
        computed[f"relation_{mode}.json"] = rules.as_text(json.loads((written / "relation.json").read_text()))
        for path in (written / "panseg").iterdir():
            computed[f"{mode}/panseg/{path.name}"] = read_image(path)
    return computed


def graph_of(prediction: dict[str, Any], ids: Array) -> SceneGraph:
    entities = prediction["entityid_list"]
    infos = [Segment(entity, entity % 1000, entity >= 1000) for entity in entities]
    names = tuple(f"class {index}" for index in range(133))
    panoptic = Panoptic(torch.from_numpy(ids), infos, names, (ids.shape[0], ids.shape[1]))
    relations = [Relation(subject, target, predicate, 1.0) for subject, target, predicate in prediction["relation"]]
    return SceneGraph(panoptic, relations, tuple(f"predicate {index}" for index in range(56)))
