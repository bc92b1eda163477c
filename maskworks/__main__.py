"""One command for all: maskworks predict photographs/ --weights any.safetensors; it runs the packages' own programs.

Which package is meant is read from the checkpoint that --weights names: a file of ours, a published name, or anybody's
file, which is converted into the cache first. A package's name in the first place says it too.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from maskworks import __version__

USAGE = """usage: maskworks VERB ...

  train PACKAGE [VARIANT] [--data PATH] [--flags]     train solov2, yolact, maskrcnn, refinemask_psg, upsnet, glip,
                                                      pose2seg or u2net
  eval --weights FILE|NAME [--flags]                  score a checkpoint
  predict IMAGES... --weights FILE|NAME --out DIR     drawings, masks, predictions.json and report.html
  export --weights FILE|NAME --out model.onnx         ONNX, or --format openvino, pt2; checked against PyTorch
  predict-many SOURCE --weights FILE|NAME --out DIR   millions of photographs on Ray, into Parquet
  results DIR --to coco|folder --out OUT              and back to a file, or to files
  score DIR --annotations FILE --out OUT              and scored, as eval does
  convert CHECKPOINT --out FILE.safetensors           anybody's checkpoint, as one of ours
  weights                                             the names of published checkpoints
  check FILE|FOLDER                                   the faults of a data set
  report FOLDER...                                    report.html of a run or of predictions, again
  demo [CHECKPOINTS...]                               the models on a web page

maskworks VERB --help says more; --version. In place of --weights, a package may be named first: eval solov2."""

OF_A_PACKAGE = ("train", "eval", "predict", "export")
PROGRAMS = {
    "weights": "maskworks.published.weights",
    "report": "maskworks.report",
    "predict-many": "maskworks.many",
    "results": "maskworks.many.results",
    "score": "maskworks.many.scoring",
}
SCRIPTS = {"convert": "mmdet2pytorch.py", "check": "check_dataset.py", "demo": "demo.py"}
MODULES = {"u2net": "refinemask_psg.u2net"}  # where it isn't of the package's name


def main() -> None:
    verb, *words = sorted(sys.argv[1:], key=lambda word: word == "--traceback") or ["--help"]
    if verb in ("-h", "--help", "--version"):
        print(__version__ if verb == "--version" else USAGE)
        return
    from maskworks.command_line import program  # PyTorch: seconds, which help does without

    program.run(lambda: start(verb, words))


def start(verb: str, words: list[str]) -> None:
    """Run a program as the main one, with these words."""
    from common.errors import UserError

    if verb not in (*OF_A_PACKAGE, *PROGRAMS, *SCRIPTS):
        raise UserError(f"maskworks {verb}: there are {', '.join((*OF_A_PACKAGE, *PROGRAMS, *SCRIPTS))}")
    if verb in OF_A_PACKAGE:
        package, words = with_package(verb, words)
    sys.argv = [f"maskworks {verb}", *words]
    if verb in SCRIPTS:
        runpy.run_path(str(script(SCRIPTS[verb])), run_name="__main__")
    else:
        module = PROGRAMS.get(verb) or f"{MODULES.get(package, package)}.{verb}"
        if find_spec(module) is None:
            raise UserError(f"maskworks {verb}: {package} has no {verb}.py")
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def with_package(verb: str, words: list[str]) -> tuple[str, list[str]]:
    """The package whose program is meant, and the words that are left for it."""
    from common.errors import UserError
    from maskworks.packages import NETWORKS

    names = (*NETWORKS, *MODULES)
    if words and words[0] in names:
        return words[0], words[1:]
    if verb == "train":
        raise UserError(f"maskworks train: name the package first, of {', '.join(names)}: maskworks train solov2")
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == "--weights" and (equals or words[place + 1 :]):
            package, weights = package_of(value if equals else words[place + 1])
            return package, [*words[:place], "--weights", weights, *words[place + (1 if equals else 2) :]]
    raise UserError(f"maskworks {verb}: name a checkpoint with --weights, or the package first, as {verb} solov2")


def package_of(source: str) -> tuple[str, str]:
    """The package of a checkpoint, and what --weights is to say of it."""
    from common.run.checkpoint import DIGEST
    from maskworks.packages import EXPORTED
    from maskworks.published import fetching, recognising
    from maskworks.published.formats import read_published
    from maskworks.published.names import local_file, package_in

    file = local_file(source)
    source = source.partition(DIGEST)[0]  # checked now
    if file.suffix in EXPORTED:
        from maskworks.exported import words_in

        return words_in(file).get("package", "u2net"), source  # a published one of U-2-Net says nothing
    if package := package_in(file):
        return package, source
    if recognising.SALIENCY in read_published(file)[0]:
        return "u2net", source  # which reads the published file itself
    made = fetching.ours(file)
    return package_in(made), str(made)


def script(name: str) -> Path:
    """Of scripts/, which a wheel has in this package and a clone beside it."""
    from common.errors import UserError

    here = Path(__file__).resolve().parent
    for folder in (here / "scripts", here.parent / "scripts"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{name} is not installed: single packages come without it; pip install . in a clone brings it")


if __name__ == "__main__":
    main()
