"""`python -m tests.parity CASE... [--dump DIR] [--freeze] [--measure] [--device D]`: is every network the original?"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from tests.parity.case import Array, Case, read_case
from tests.parity.freeze import freeze
from tests.parity.recorded import record
from tests.parity.runner import find_cases, measure_rounding, run_case

HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    """0: every output is within its tolerance; 1: one is not, or was not compared; 2: wrong arguments."""
    options = parse(arguments)
    torch.set_num_threads(1)  # as the cases were computed: batch statistics are summed otherwise by several threads
    # TF32 keeps 10 bits of a float: no tolerance here is meant for it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        cases = [read_case(folder) for folder in find_cases(options.cases)]
        if options.measure:
            for case in cases:
                record(case, measure_rounding(case))
        if options.dump:
            check_names(cases)
        failed = [case.name for case in cases if not check(case, options.device, options.dump)]
        print(
            f"{len(cases) - len(failed)} of {len(cases)} cases pass"
            + (f"; failed: {', '.join(failed)}" if failed else "")
        )
        if options.freeze and not failed:
            for case in cases:
                freeze(case, HERE / "cases", options.device)
        elif options.freeze:
            print("nothing recorded: --freeze first wants every given case to pass")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("cases", nargs="+", metavar="CASE", help="a case's folder, or a folder of cases")
    parser.add_argument(
        "--dump", type=Path, metavar="DIR", help="write what was computed: DIR/<case>.npz, by output name"
    )
    parser.add_argument(
        "--freeze", action="store_true", help="record our own outputs on drawn scenes under tests/parity/cases"
    )
    parser.add_argument(
        "--measure", action="store_true", help="first measure and record what float32 leaves open (minutes a case)"
    )
    parser.add_argument("--device", default="cpu", help="where the networks run (default: cpu)")
    return parser.parse_args(arguments)


def check(case: Case, device: str, dump: Path | None) -> bool:
    """Computes and compares one case and prints its lines; whether all of it passes."""
    print(f"\n{case.system}/{case.name}  ({case.folder})")
    try:
        lines, computed = run_case(case, device)
    except UserError as error:
        print(f"FAIL {error}")
        return False
    except Exception:  # the other cases are still worth running
        traceback.print_exc(file=sys.stdout)
        print("FAIL nothing was compared")
        return False
    for line in lines:
        print(line)
    if dump:
        write_dump(dump / f"{case.name}.npz", computed)
    passed = sum(line.passed for line in lines)
    print(f"{case.name}: {passed} of {len(lines)} outputs ok")
    return passed == len(lines) and passed > 0


def write_dump(path: Path, computed: dict[str, Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **computed)  # type: ignore[arg-type]
    print(f"wrote {path}")


def check_names(cases: list[Case]) -> None:
    """Dumps are named after the cases, so two cases of one name cannot share a folder."""
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two cases are named {twice[0]}, and --dump would write both to {twice[0]}.npz: run them apart"
        )


if __name__ == "__main__":
    sys.exit(main())
