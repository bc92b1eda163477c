"""What exported files give: python scripts/export_table.py [CHECKPOINTS...] writes the table in docs/export_table.md.

Each export command runs as it is, once for each format: it checks its file, and what it prints is the difference. A
package's name stands for its built-in variant, with made-up weights and low thresholds, so that something is found.
"""

import io
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from unittest.mock import patch

import torch
import tyro
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # scripts are not installed

from common.errors import UserError
from common.files import write_text
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks import exporting
from maskworks.__main__ import MODULES, package_of
from maskworks.command_line import program
from maskworks.exporting import ENDINGS
from maskworks.packages import NETWORKS
from scripts.readme_table import README, markdown, read_results, write_between

EXPORTING = {name: network for name, network in NETWORKS.items() if name != "glip"} | {"u2net": "U2Net"}
HEAD = ["package, variant", "format, run by", "compared", "largest difference", "seconds", "PyTorch's seconds"]
WAYS = {  # title: format and precision
    "ONNX, onnxruntime": ("onnx", "fp32"),
    "ONNX in fp16, onnxruntime": ("onnx", "fp16"),
    "OpenVINO": ("openvino", "fp32"),
    "pt2, PyTorch": ("pt2", "fp32"),
}
FOUND = {"score_threshold": 0.005, "update_threshold": 0.0, "panoptic_score_threshold": 0.1, "max_instances": 10}
MOST = 160  # letters of a reason
RUNS = 5  # of which the median counts, after one to warm up


def main(
    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(EXPORTING),
    results: Path = Path("runs/exports.json"),
    page: Path = README.parent / "docs" / "export_table.md",
) -> None:
    """Export, check and time checkpoints (packages, files, published names), and write the table into a page.

    The rows are recorded in `results`; those of other checkpoints stay.
    """
    torch.set_num_threads(1)
    recorded = read_results(results)
    for source in checkpoints:
        with TemporaryDirectory() as folder:
            package, weights = (source, made_up(source, Path(folder))) if source in EXPORTING else package_of(source)
            for title, (kind, precision) in WAYS.items():
                if kind == "openvino" and not find_spec("openvino"):
                    continue
                out = f"{folder}/m{ENDINGS[kind]}"
                words = ["--weights", weights, "--out", out, "--format", kind, "--precision", precision]
                row = recorded[f"{source} {title}"] = measured(package, title, words)
                print(*row, sep=" | ", flush=True)
                write_text(results, json.dumps(recorded, indent=1) + "\n")
    write_between(page, "exports", markdown(HEAD, list(recorded.values())))


def made_up(name: str, folder: Path) -> str:
    """A checkpoint of a package's built-in variant."""
    module, names = import_module(MODULES.get(name, name)), ("person",) if name == "pose2seg" else ("a", "b")
    config = deepcopy(module.VARIANTS["shapes"])
    for setting, value in FOUND.items():
        if hasattr(config.test, setting):
            setattr(config.test, setting, value)
    if name == "upsnet":
        config.model.things = 1
    torch.manual_seed(3)
    model = module.U2Net(config.model.small) if name == "u2net" else getattr(module, EXPORTING[name])(config, names)
    file = folder / f"{name}.safetensors"
    save(file, Checkpoint(name, to_dict(config), names, (1, 2)[: len(names)], model.state_dict()))
    return str(file)


def measured(package: str, title: str, words: list[str]) -> list[str]:
    """A row: what the export command says of its file, and the seconds of both; or why there is none."""
    said, made, real = io.StringIO(), list[Any](), exporting.write

    def write(graph: nn.Module, inputs: dict[str, Tensor], *rest: Any) -> Any:
        made[:] = [graph, inputs, real(graph, inputs, *rest)]
        return made[2]

    program = import_module(f"{MODULES.get(package, package)}.export")
    try:
        with patch.object(exporting, "write", write), redirect_stdout(said), patch("sys.argv", ["export.py", *words]):
            program.main()
    except UserError as error:
        return [f"`{package}`", title, f"none: {error}".replace("|", "/")[:MOST], "", "", ""]
    graph, inputs, session = made
    arrays = {name: value.numpy() for name, value in inputs.items()}
    with torch.inference_mode():
        seconds = [timed(lambda: session.run(None, arrays)), timed(lambda: graph(**inputs))]
    found = sum(map(int, re.findall(r"(\d+) found", said.getvalue())))
    largest = max(re.findall(r"(?:within|from PyTorch) ([\d.e+-]+)", said.getvalue()), key=float)
    named = f"`{package}`, `{graph.model.config.variant or 'shapes'}`"
    return [named, title, f"{found} found" if found else "a map", largest, *(f"{each:.3f}" for each in seconds)]


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process's own, whatever else the computer does."""
    clock = []
    for _ in range(2 + RUNS):
        clock.append(time.process_time())
        work()
    return median(after - before for before, after in pairwise(clock[1:]))


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, prog="export_table.py"))
