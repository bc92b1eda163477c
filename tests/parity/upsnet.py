"""UPSNet's cases: so far panoptic quality (kind "pq_eval"), scenarios of PNGs and JSON with panopticapi's answers."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from common.errors import UserError
from common.metrics import evaluate_panoptic
from tests.parity import rules
from tests.parity.case import Array, Case
from tests.parity.rules import Rule

INPUTS = ()
GROUPS = ("All", "Things", "Stuff")
PER_CLASS = ("pq", "sq", "rq", "iou_sum", "tp", "fp", "fn")


def compute(case: Case, device: str) -> dict[str, Array]:
    """Every output of the case; a scenario that the original refuses must be refused here."""
    del device  # there is no network
    computed: dict[str, Array] = {}
    for name, scenario in case.spec.get("scenarios", {}).items():
        result = evaluate(case, name, scenario)
        refused = result is None or any(result[group]["n"] == 0 for group in GROUPS)
        if refused != ("error" in scenario["expected"]):
            raise AssertionError(f"{name}: the original {'fails' if not refused else 'gives numbers'}, ours does not")
        if result is not None and not refused:
            rows = [[result[group][key] for key in ("pq", "sq", "rq", "n")] for group in GROUPS]
            computed[f"{name}/summary"] = np.array(rows)
            classes = result["per_class"].items()
            computed[f"{name}/per_class"] = np.array([[key, *(row[c] for c in PER_CLASS)] for key, row in classes])
    return computed


def evaluate(case: Case, name: str, scenario: dict[str, Any]) -> dict[str, Any] | None:
    """A scenario's scores from files, as a user would have them; None where it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for part in ("gt", "pred"):
            pictures = Path(folder) / part
            pictures.mkdir()
            for annotation in scenario[f"{part}_json"]["annotations"]:
                picture = case.inputs.get(f"{name}/{part}/{annotation['image_id']}")
                if picture is not None:
                    cv2.imwrite(str(pictures / annotation["file_name"]), picture[..., ::-1])
            files.append(pictures.with_suffix(".json"))
            files[-1].write_text(json.dumps(scenario[f"{part}_json"]))
        try:
            return evaluate_panoptic(*files)
        except UserError:
            return None


def rule(case: Case, name: str) -> Rule | None:
    if not re.fullmatch(r".+/(summary|per_class)", name):
        return None
    return rules.absolute(rules.stated(case.spec.get("tolerance"), 1e-9))
