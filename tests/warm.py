"""A process that has the libraries in memory and turns a copy of itself into each Python program that is asked for.

To import torch, torchvision and transformers takes seconds of processor time, and the tests start a hundred programs.
`python tests/warm.py` imports them once, and our packages, then forks for each request: a copy runs the program as
`python WORDS` would, with its own folder, environment, output and exit status; or several copies, as torchrun starts
them. No command is imported before it runs, and none of our packages if those of another folder are asked for.
"""

import atexit
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

LIBRARIES = (
    "cv2",
    "hotcoco",
    "msgspec.yaml",
    "PIL.Image",
    "rich.console",
    "rich.progress",
    "rich.table",
    "safetensors.torch",
    "torch.distributed",
    "torch.utils.tensorboard",
    "torchvision.models",
    "torchvision.transforms.v2",
    "transformers.models.bert.modeling_bert",
    "tokenizers",
    "tyro",
    "yaml",
)
ROOT = str(Path(__file__).parents[1])
OURS = (
    "glip",
    "maskrcnn",
    "maskworks.commands.runs",
    "maskworks.prediction.command",
    "maskworks.report",
    "maskworks.shapes",
    "pose2seg",
    "refinemask_psg",
    "solov2",
    "upsnet",
    "yolact",
)


def main() -> None:
    sys.dont_write_bytecode = False  # our modules are compiled once, not in each copy
    for name in LIBRARIES:
        importlib.import_module(name)
    sys.path.insert(0, ROOT)
    for name in OURS:
        importlib.import_module(name)
    os.fsync = lambda _: None  # nothing that a test writes has to outlive the machine
    gc.freeze()  # copies neither look through what is here nor, by doing so, copy its memory
    reply = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        if ended := asked.get("end"):  # of programs started before
            ends = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ended]
            print(max(ends, key=abs), file=reply, flush=True)
            continue
        started = []
        for rank in range(asked["processes"]):
            process = os.fork()
            if process == 0:
                reply.close()
                become(asked, rank)
                return
            started.append(process)
        print(json.dumps(started), file=reply, flush=True)


def become(asked: dict[str, Any], rank: int) -> None:
    """The program itself, as torchrun's process of this rank where there are several; how it ends is how this one ends.

    What Python does last, freeing every object of every library, takes seconds and shows nothing: it is left out.
    """
    signal.alarm(asked["seconds"])
    if asked["memory"]:
        size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + asked["memory"],) * 2)
    for descriptor, name in enumerate((os.devnull, asked["output"], asked["errors"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND if descriptor else os.O_RDONLY), descriptor)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    if asked["processes"] > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(asked["processes"]))
    program, *sys.argv[1:] = asked["words"]
    folder = asked["cwd"] if program == "-m" else str(Path(program).parent)
    changes_torch = "tests.accelerator" in asked["words"]  # before our packages take anything from it
    if changes_torch or asked["environment"]["PYTHONPATH"] != ROOT:
        packages = {"common", *(name.partition(".")[0] for name in OURS)}
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
    sys.path[:2] = [folder, *filter(None, asked["environment"]["PYTHONPATH"].split(os.pathsep))]
    status = 0
    try:
        if program == "-m":
            runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
        else:
            sys.argv[0] = program
            runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except Exception:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # other threads come to their end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
