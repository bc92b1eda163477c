"""What stands around the models: data (`shapes`, `own_data`), other people's checkpoints, reports, the one command."""

import sys
from importlib.util import find_spec
from pathlib import Path

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


refuse_another_common(HOME / "common")
