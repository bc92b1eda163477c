"""What stands around the models: data (`shapes`, `own_data`), other people's checkpoints, reports, the one command."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

__version__ = "0.1.0"  # of all packages

HOME = Path(__file__).resolve().parents[1]


def refuse_another_common(ours: Path) -> None:
    """Where a folder of the user's is called `common` too, Python may find that one: a line says so, not a traceback.

    Here, since every model package imports this one first.
    """
    spec = sys.modules["common"].__spec__ if "common" in sys.modules else find_spec("common")
    found = [str(place) for place in spec.submodule_search_locations or [spec.origin or ""]] if spec else []
    if any(Path(place, "run", "checkpoint.py").is_file() for place in found):
        return
    problem = f"Python finds {found[0]} in place of {ours}" if found else f"{ours} is missing"
    remedy = "rename yours, or start Python from another folder" if found else "install it: pip install . in the clone"
    line = f"{problem}, which maskworks stands on: {remedy}"
    if sys.argv[0] == "-m" or Path(sys.argv[0]).resolve().is_relative_to(HOME):  # one of our commands
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2)
    raise ImportError(line)


def load(
    source: str | Path,
    *,
    device: str = "auto",
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    trust: bool = False,
) -> Any:
    """The model in any checkpoint: a file of ours, a published name, or anybody's file; its package is found.

    One that was trained on tiles cuts what is larger than these, and joins what it finds, as predict.py does.
    `trust` runs the compiled program in a .pt2 file, which can do whatever this user can.
    """
    from common.errors import UserError
    from common.run.distributed import choose_device
    from maskworks.__main__ import MODULES, package_of
    from maskworks.packages import EXPORTED

    package, file = package_of(str(source))
    if Path(file).suffix in EXPORTED and package not in MODULES:
        from maskworks import exported

        if device not in ("auto", "cpu") or precision != "fp32":
            raise UserError(f"{source}: runs on the processor, as exported; leave out device and precision")
        return cutting(exported.load(Path(file), trust))
    if package not in MODULES:
        return cutting(import_module(package).load(file, device=device, precision=precision))
    if precision != "fp32":
        raise UserError(f"{source}: {package} computes in fp32 only; leave out precision={precision!r}")
    return import_module(MODULES[package]).load(file).to(choose_device(device))


def cutting(model: Any) -> Any:
    if not model.config.data.tile:
        return model
    from maskworks.own_data import as_trained

    return as_trained(model)


refuse_another_common(HOME / "common")
