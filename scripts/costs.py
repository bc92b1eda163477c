"""What a photograph costs: python scripts/costs.py [--device cuda] measures it and writes the README's table.

Weights are made up (the time hardly depends on them), the photograph is noise of 640 x 480, and everything from its
pixels to the results in them is counted. Each device that was measured has a column: run it on one machine, then on
another with the first one's results file. Beside them stands what the originals' authors published.
"""

import json
import platform
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # scripts are not installed

from common.errors import UserError
from common.files import write_text
from common.run import distributed
from maskworks.command_line import program
from maskworks.packages import NETWORKS
from maskworks.published.coco_classes import COCO_CLASSES
from scripts.readme_table import README, markdown, read_results, write_between

MEASURED = {  # of the others the first variant that was published
    "solov2": ("light_r18_448", "r50_3x"),
    "yolact": ("base", "plus_base"),
    "maskrcnn": ("r50_fpn_1x",),
    "refinemask_psg": ("refinemask_r50_1x", "refine_cbv2_swin_tiny_cascade_last"),
    "upsnet": ("resnet50_coco",),
    "glip": ("glip_tiny",),
    "pose2seg": ("coco_occ",),
}
# From the originals' READMEs (Mask R-CNN: maskrcnn-benchmark's; YOLACT and RefineMask: of frames a second, RefineMask's
# without the card). Of the rest no time was found there.
PUBLISHED_ON_GPU = {
    "solov2 light_r18_448": "0.019 s, V100",
    "solov2 r50_3x": "0.054 s, V100",
    "yolact base": "0.030 s, Titan Xp",
    "yolact plus_base": "0.037 s, Titan Xp",
    "maskrcnn r50_fpn_1x": "0.164 s, V100",
    "refinemask_psg refinemask_r50_1x": "0.088 s",
}
PEOPLE = 4  # on the photograph that Pose2Seg gets


@dataclass
class Costs:
    """Measure what a photograph costs, and write the README's table."""

    packages: Annotated[tuple[str, ...], tyro.conf.Positional] = tuple(NETWORKS)
    """Which packages to measure; the others' figures stay."""
    device: str = "cpu"
    """Where to measure; cpu: on one thread."""
    runs: int = 3
    """How often; the median counts. One run more comes before, to warm up."""
    measure: bool = True
    """--no-measure only writes the table, of what is recorded."""
    results: Path = Path("runs/costs.json")
    """Where the figures are recorded."""
    readme: Path = README
    """The page that gets the table."""


def main() -> None:
    options = tyro.cli(Costs, prog="costs.py", description=__doc__)
    recorded = read_results(options.results)
    if options.measure:
        device = distributed.choose_device(options.device)
        torch.set_num_threads(1)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
        for package in options.packages:
            if package not in NETWORKS:
                raise UserError(f"no package is called {package!r}; there are {', '.join(NETWORKS)}")
            for variant in variants_of(package):
                entry = recorded.setdefault(f"{package} {variant}", {"seconds": {}})
                entry["parameters"], entry["seconds"][name] = measure(package, variant, device, options)
                write_text(options.results, json.dumps(recorded, indent=1) + "\n")
                print(f"{package} {variant}: {entry['parameters']:,} parameters, {entry['seconds'][name]:.3f} s")
    write_between(options.readme, "costs", table(recorded))
    print(f"{options.readme}: {len(recorded)} variants, measured on {platform.machine()}")


def variants_of(package: str) -> tuple[str, ...]:
    published = [
        variant for variant in import_module(package).VARIANTS if variant != "small" and "shapes" not in variant
    ]
    return MEASURED.get(package, tuple(published[:1]))


def measure(package: str, variant: str, device: torch.device, options: Costs) -> tuple[int, float]:
    """The number of parameters, and the median of the seconds that a photograph takes."""
    module = import_module(package)
    config = deepcopy(module.VARIANTS[variant])
    names = ("person",) if package == "pose2seg" else class_names(package)
    torch.manual_seed(0)
    model: Any = getattr(module, NETWORKS[package])(config, names).eval().to(device)
    image = np.random.RandomState(0).randint(0, 256, (480, 640, 3)).astype(np.uint8)
    joints = np.random.RandomState(0).uniform(40, 440, (PEOPLE, 17, 3))
    seconds = []
    for _ in range(1 + options.runs):
        start = time.perf_counter()
        model.predict([image], [joints]) if package == "pose2seg" else model.predict([image])
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return sum(weight.numel() for weight in model.parameters()), median(seconds[1:])


def class_names(package: str) -> tuple[str, ...]:
    """COCO's; of a panoptic model, its things and stuff."""
    if package == "upsnet":
        from upsnet.classes import COCO

        return tuple(COCO)
    return tuple(COCO_CLASSES)


def table(recorded: dict[str, Any]) -> str:
    devices = list(dict.fromkeys(name for entry in recorded.values() for name in entry["seconds"]))
    order = [f"{package} {variant}" for package in NETWORKS for variant in variants_of(package)]
    rows = []
    for name in sorted(recorded, key=order.index):
        entry = recorded[name]
        times = [f"{entry['seconds'][each]:.3g} s" if each in entry["seconds"] else "" for each in devices]
        package, _, variant = name.partition(" ")
        label = f"[{package}]({package}/README.md) `{variant}`"
        rows.append([label, f"{entry['parameters'] / 1e6:.1f} M", *times, PUBLISHED_ON_GPU.get(name, "")])
    return markdown(["variant", "parameters", *devices, "the original on a GPU, as published"], rows)


if __name__ == "__main__":
    program.run(main)
