"""Training from Python: solov2.train(data="photographs/", epochs=20) runs train.py with these flags."""

import runpy
from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import UserError
from common.run.batch_size import rerun
from common.run.callbacks import Callback, Run
from common.run.configuration import flags
from common.run.memory import keep_freed_memory


def start(package: str, variant: str, settings: Mapping[str, Any], callbacks: Sequence[Callback]) -> Run:
    """Run a package's training program here; a user's mistake is a UserError.

    The program is run, not imported: imported, `solov2.train` would be the module, and the function gone.
    """
    for callback in callbacks:
        if isinstance(callback, type) or not isinstance(callback, Callback):
            raise UserError(f"callbacks: {callback!r} is none; expected an object with on_step, on_evaluate and on_end")
    keep_freed_memory()
    given = {name: value for name, value in settings.items() if value is not None}
    program = runpy.run_module(f"{package}.train")
    words = [*filter(None, [variant]), *flags(given)]
    run: Run = rerun(lambda more: program["main"]([*words, *more], callbacks))
    for callback in callbacks:
        callback.on_end(run)
    return run
