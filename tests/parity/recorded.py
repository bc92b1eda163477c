"""What float32 leaves open of given cases' outputs, measured once and kept: measuring takes minutes for a case.

rounding.json holds it by the digest of a case's arrays, so a case that changed is measured anew.
"""

import hashlib
import json
from functools import cache
from pathlib import Path

from tests.parity.case import SAMPLE, Case

FILE = Path(__file__).parent / "rounding.json"


def recorded(case: Case, name: str) -> float:
    """The error that the output `name` may have by rounding, as recorded; 0 where nothing is."""
    entry = entries(FILE).get(digest(case.folder), {"outputs": {}})
    return float(entry["outputs"].get(name.removesuffix(SAMPLE), 0.0))


def record(case: Case, measured: dict[str, float]) -> None:
    """Keeps what was measured of a case's outputs, if anything was."""
    if not measured:
        return
    kept = dict(entries(FILE))
    outputs = {name.removesuffix(SAMPLE): float(f"{value:.3g}") for name, value in sorted(measured.items())}
    kept[digest(case.folder)] = {"case": f"{case.system}/{case.name}", "outputs": outputs}
    FILE.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    entries.cache_clear()


@cache
def entries(path: Path) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}
    return found


@cache
def digest(folder: Path) -> str:
    """Of the case's arrays; a case made in memory has none."""
    golden = folder / "golden.npz"
    return hashlib.sha256(golden.read_bytes()).hexdigest()[:16] if golden.exists() else ""
