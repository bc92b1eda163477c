"""What exported files give: python scripts/export_table.py [CHECKPOINTS...] writes the table in docs/export_table.md.

Each export command runs as it is, once for each runtime that is installed: it checks the file with whatever opens it,
and what it prints is the difference. A package's name stands for its built-in variant, with made-up weights and low
thresholds, so that something is found.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # scripts are not installed

from common.files import write_text
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskworks.__main__ import MODULES, package_of
from maskworks.command_line import program
from maskworks.packages import NETWORKS
from scripts.readme_table import README, markdown, read_results, write_between

EXPORTING = {name: network for name, network in NETWORKS.items() if name != "glip"} | {"u2net": "U2Net"}
HEAD = ["package, variant", "format, opened by", "compared", "largest difference", "seconds", "PyTorch's seconds"]
FOUND = {"score_threshold": 0.005, "update_threshold": 0.0, "panoptic_score_threshold": 0.1, "max_instances": 10}
RUNS = 5  # of which the median counts, after one to warm up
Answer = Callable[[dict[str, Any]], list[Any]]


def main(
    checkpoints: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(EXPORTING),
    results: Path = Path("runs/exports.json"),
    page: Path = README.parent / "docs" / "export_table.md",
) -> None:
    """Export, check and time checkpoints (packages, files, published names), and write the table into a page.

    The rows are recorded in `results`; those of other checkpoints stay.
    """
    torch.set_num_threads(1)
    runtimes = {"ONNX, onnxruntime": by_onnxruntime} | (
        {"ONNX, OpenVINO": by_openvino} if find_spec("openvino") else {}
    )
    recorded = read_results(results)
    for source in checkpoints:
        with TemporaryDirectory() as folder:
            package, weights = (source, made_up(source, Path(folder))) if source in EXPORTING else package_of(source)
            for title, runtime in runtimes.items():
                row = recorded[f"{source} {title}"] = measured(package, weights, f"{folder}/m.onnx", title, runtime)
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


def measured(package: str, weights: str, out: str, title: str, runtime: Callable[..., Answer]) -> list[str]:
    """A row: what the export command says of a file that this runtime opened, and the seconds of both."""
    import onnxruntime

    module, asked, opened = MODULES.get(package, package), list[Any](), onnxruntime.InferenceSession
    program, said = import_module(f"{module}.export"), io.StringIO()

    class Session:
        """What the command takes for onnxruntime's."""

        def __init__(self, file: str, providers: list[str]):
            self.answer = runtime(file, opened)

        def run(self, _: None, inputs: dict[str, Any]) -> list[Any]:
            asked[:] = [self.answer, inputs]
            return self.answer(inputs)

    words = patch("sys.argv", ["export.py", "--weights", weights, "--out", out])
    with patch("onnxruntime.InferenceSession", Session), redirect_stdout(said), words:
        program.main()
    model = import_module(module).load(weights, **({} if package == "u2net" else {"device": "cpu"}))
    graph = program.Graph(model, *([program.Export(weights).instances] if package == "upsnet" else [])).eval()
    tensors = {name: torch.as_tensor(value) for name, value in asked[1].items()}
    with torch.inference_mode():
        seconds = [timed(lambda: asked[0](asked[1])), timed(lambda: graph(**tensors))]
    found = sum(map(int, re.findall(r"(\d+) found", said.getvalue())))
    largest = max(re.findall(r"(?:within|from PyTorch) ([\d.e+-]+)", said.getvalue()), key=float)
    named = f"`{package}`, `{model.config.variant or 'shapes'}`"
    return [named, title, f"{found} found" if found else "a map", largest, *(f"{each:.3f}" for each in seconds)]


def timed(work: Callable[[], object]) -> float:
    clock = []
    for _ in range(2 + RUNS):
        clock.append(time.perf_counter())
        work()
    return median(after - before for before, after in pairwise(clock[1:]))


def by_onnxruntime(file: str, opened: Callable[..., Any]) -> Answer:
    from onnxruntime import SessionOptions

    settings = SessionOptions()
    settings.intra_op_num_threads = 1
    session = opened(file, settings, providers=["CPUExecutionProvider"])
    return lambda inputs: list(session.run(None, inputs))


def by_openvino(file: str, _: object) -> Answer:
    from openvino import compile_model

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}  # it may take bfloat16 by itself
    model = compile_model(file, "CPU", settings)
    return lambda inputs: list(model(inputs).values())


if __name__ == "__main__":
    program.run(lambda: tyro.cli(main, prog="export_table.py"))
