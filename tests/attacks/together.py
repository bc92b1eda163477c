"""Programs one after the other in one process, each with its folder, output and time: python -m tests.attacks.together.

A file has a line of JSON for each; to another the exit status is appended of each that came to an end.
"""

import json
import os
import runpy
import signal
import sys
import traceback
from pathlib import Path


def main() -> None:
    """If one of them ends the process, the last line that is missing is its."""
    work, ended = Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for line in work.read_text(encoding="utf-8").splitlines():
        asked = json.loads(line)
        for descriptor, name in enumerate(("output", "errors"), start=1):
            file = os.open(asked[name], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(file, descriptor)
            os.close(file)
        os.chdir(asked["cwd"])
        sys.path[0] = asked["cwd"]
        signal.alarm(asked["seconds"])
        status = program(*asked["words"])
        signal.alarm(0)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.write(ended, f"{status}\n".encode())


def program(module: str, *words: str) -> int:
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
