"""Training from Python: solov2.train(data="photographs/", epochs=20) runs train.py with these flags."""

import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from common.errors import UserError
from common.run.callbacks import Callback, Run
from maskworks.command_line import program
from maskworks.command_line.yaml_files import flags
from maskworks.memory import keep_freed_memory
from maskworks.training.batch_size import rerun


def start(package: str, variant: str, settings: Mapping[str, Any], callbacks: Sequence[Callback]) -> Run:
    """Run a package's training program here; a user's mistake is a UserError."""
    for callback in callbacks:
        if isinstance(callback, type) or not isinstance(callback, Callback):
            raise UserError(f"callbacks: {callback!r} is none; expected an object with on_step, on_evaluate and on_end")
    keep_freed_memory()
    name = f"{package}.train"
    main = sys.modules[name].main if name in sys.modules else runpy.run_module(name)["main"]
    given = {name: value for name, value in settings.items() if value is not None}
    words = [*filter(None, [variant]), *flags(given)]
    run: Run = rerun(lambda more: main([*words, *more], callbacks))
    for callback in callbacks:
        callback.on_end(run)
    return run


def run(main: Callable[[Sequence[str]], object]) -> None:
    """A package's training program, from a command line."""
    program.run(lambda: rerun(lambda more: main([*sys.argv[1:], *more])))


def stay_callable(name: str) -> None:
    """For a program's module that somebody imports: Python puts it in the place of its package's function `train`."""
    if name != "__main__" and name in sys.modules:
        sys.modules[name].__class__ = Program


class Program(ModuleType):
    """A module train.py that is called as the function is."""

    def __call__(self, variant: str = "", *, callbacks: Sequence[Callback] = (), **settings: Any) -> Run:
        return start(str(self.__package__), variant, settings, callbacks)
