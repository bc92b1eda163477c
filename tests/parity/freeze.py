"""Records our own outputs on scenes of the built-in dataset, as cases that may be committed.

The networks and their made-up checkpoints are those of the given cases, which have to pass first.
"""

from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from tests.parity.case import SAMPLE, Array, Case, sample, write_case
from tests.parity.networks import MEASURED, RECORDED
from tests.parity.runner import System, as_stored, compare, find_system, other_rounding

SAMPLE_LIMIT = 4000
SEEDS = range(1, 20)
FEWEST = 5  # instances that a scene must give, for its case to say something
COPIED = ("checkpoint_note", "settings", "overrides", "state_dict", "tolerance")


def freeze(case: Case, folder: Path, device: str) -> None:
    """Writes folder/<system>/<case>_shapes, from the first seed whose outputs survive other rounding."""
    system = find_system(case.system)
    if not case.spec["state_dict"]:
        print(f"{case.name}: not recorded, it has no network")
        return
    for seed in SEEDS:
        frozen = record(case, folder / case.system / f"{case.name}_shapes", system, seed, device)
        MEASURED.pop(frozen.folder, None)  # of the seed before
        if instances(frozen) >= FEWEST and survives_rounding(frozen, system, device):
            spread = {RECORDED: MEASURED[frozen.folder]} if frozen.folder in MEASURED else {}
            write_case(frozen.folder, frozen.spec | spread, frozen.arrays)
            size = sum(path.stat().st_size for path in frozen.folder.iterdir())
            print(f"{case.name}: recorded scene {seed} in {frozen.folder} ({size / 1e6:.2f} MB)")
            return
    raise UserError(f"{case.name}: none of {len(SEEDS)} scenes gives {FEWEST} instances that survive rounding")


def record(case: Case, folder: Path, system: System, seed: int, device: str) -> Case:
    """What we compute on the scenes of a seed, in the very format of the case."""
    entries, inputs = system.on_scene(case, seed)
    spec: dict[str, Any] = {
        "system": case.system,
        "case": folder.name,
        "source": f"maskworks itself, recorded by `python -m tests.parity --freeze` on scenes of seed {seed}",
        "sample_limit": SAMPLE_LIMIT,
        **{key: case.spec[key] for key in COPIED if key in case.spec},
        "inputs": {key: {"shape": list(value.shape)} | entries.get(key, {}) for key, value in inputs.items()},
    }
    spec["settings"] = {key: value for key, value in spec["settings"].items() if key != "img_meta"}
    if isinstance(spec.get("tolerance"), dict):  # what the original reached says nothing about us
        spec["tolerance"] = {key: value for key, value in spec["tolerance"].items() if key != "reached_here"}
    constants = {key: value for key, value in case.arrays.items() if key.startswith("const/")}
    arrays = constants | {f"in/{key}": value for key, value in inputs.items()}
    computed = system.compute(Case(folder, spec, arrays), device)
    names = [name if name in computed else name.removesuffix(SAMPLE) for name in case.outputs]
    spec["outputs"] = {name: {"shape": list(computed[name].shape)} for name in names}
    for name in names:
        arrays |= stored(name, computed[name])
    return Case(folder, spec, arrays)


def stored(name: str, whole: Array) -> dict[str, Array]:
    """An output under the name that says whether all of it is kept; of masks, labels and targets all is."""
    if name.endswith(SAMPLE):
        return {f"out/{name}": whole}
    if whole.dtype.kind == "f" and whole.size > SAMPLE_LIMIT:
        return {f"out/{name}{SAMPLE}": sample(whole, SAMPLE_LIMIT)}
    small = whole.astype(np.int32) if whole.dtype == np.int64 else whole
    return {f"out/{name}": small}


def instances(case: Case) -> int:
    return next(len(value) for name, value in case.outputs.items() if name in ("scores", "final/scores"))


def survives_rounding(case: Case, system: System, device: str) -> bool:
    """Whether other convolutions, which round otherwise, give the same; else another machine would not."""
    with other_rounding():
        again = system.compute(case, device)
    return all(line.passed for line in compare(case, system, as_stored(case, system, again)))
