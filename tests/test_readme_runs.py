"""Every command of every README runs as it stands, on made-up weights of full size and small made-up data sets.

- Each runs by itself in a folder like a clone with datasets/ in it, where the README says; what it names is there, and
  what the README prepares by a command of its own is prepared by that (AFTER).
- What is limited from outside, by flags put behind the line: a training takes one step of one image, and an
  evaluation one image (LIMITS); torchrun starts one or two processes on this machine, not 8 or 16 on several.
- Downloads that a line asks for are served from the libraries' own caches, filled with made-up files.
- NOT_RUN names what doesn't run, and why. Those that take seconds run in `make test`, all of them in `make test-slow`.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import readme_files
from tests.running import python
from tests.test_readme import COMMANDS, NAME, ROOT, Command, under_name

NOT_RUN = {  # how the line begins: the reason
    "make ": "sets the environment up and runs this suite; continuous integration does",
    "pip ": "installs; tests/test_packaging.py does, into an environment of its own",
    "torchrun ... ": "a form, not a command",
    "maskworks --help ": "tests/maskworks/test_command.py",
    "maskworks predict-many ": "needs Ray, or a cluster; tests/maskworks/test_many.py starts it where Ray is installed",
    "maskworks results ": "as predict-many, which it is for",
    "maskworks score ": "likewise",
    "python scripts/demo.py ": "serves a page until it is stopped; tests/scripts/test_demo.py opens it",
    "python -m common.run.weights push ": "writes to the Hugging Face Hub; tests/published/test_hub.py to a stand-in",
    "python scripts/reproduce.py ": "fetches 1 GB of photographs; tests/scripts/test_reproduce.py runs it whole",
    "python scripts/export_table.py ": "exports for a quarter of an hour; tests/scripts/test_export_table.py",
    "python scripts/bench/": "measures for minutes; tests/scripts/test_benchmarks.py starts each",
}
AFTER = {  # what a line needs that has this in it: what another line leaves that has that in it
    r"solov2\.train light_r18_448|check_dataset": "labelme2coco",
    r"images shards/train": "shard_dataset",
    r"solov2\.eval|--format labelme|--data found/labelme": "solov2.train light_r18_448 --weights torchvision",
    r"train\.py psg(_pairs)? |eval\.py --weights psg": "prepare_psg",
    r"resnet101_cityscapes": "prepare_cityscapes_panoptic",
    r"--OCHuman": "prepare_ochuman",
    r"--weights solov2\.onnx": "solov2.export",
    r"submission (check|score)": "--submission out",
    r"report FOLDER": "solov2.predict --weights solov2:r50_3x",
}
STANDS_FOR = {"FOLDER": "drawn", "found/labelme": "my/photographs"}  # what a line left, or people corrected
LIMITS = {  # program: the flags that limit it, to an image for each process
    "train": "--steps 1 --limit {count} --batch-size {count} --workers 0 --precision fp32",
    "eval": "--limit {count} --workers 0 --precision fp32",
    "costs": "solov2 --runs 1 --readme README.md",
    "fidelity": "--readme README.md",
    "checkpoint_table": "--page None",
    "shapes": "--count 2",
}
QUICK = ("labelme2coco", "yolo2coco", "check_dataset", "prepare_", "tests.parity CASE", "maskworks.shapes")


def line_of(command: Command) -> str:
    return " ".join(command.words)


def runs(command: Command) -> bool:
    words = command.words
    longer = (one.words for one in COMMANDS if len(one.words) > len(words))
    named = command.mention and any(one[: len(words)] == words for one in longer)  # a program, in a sentence
    return not named and not f"{line_of(command)} ".startswith(tuple(NOT_RUN))


RUN = list({(one.words, one.folder): one for one in reversed(COMMANDS) if runs(one)}.values())[::-1]  # once each


@pytest.fixture(scope="module")
def stock() -> Iterator[Path]:
    """Data sets and the libraries' caches; weights join them as they are asked for. Gigabytes, so removed at once."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        readme_files.data(Path(folder))
        for name, value in readme_files.downloads(Path(folder)).items():
            patch.setenv(name, value)
        yield Path(folder)


@pytest.fixture
def clone(stock: Path) -> Iterator[Path]:
    """Every package's programs, scripts and datasets/, as in a clone."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for program in [*ROOT.glob("*/*.py"), *ROOT.glob("refinemask_psg/u2net/*.py")]:
            if program.parent.name == "scripts" or program.stem in ("train", "eval", "predict", "export", "demo"):
                place = folder / program.relative_to(ROOT)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(program)
        shutil.copy(ROOT / "README.md", folder)
        shutil.copytree(stock / "datasets", folder / "datasets")
        yield folder


def execute(command: Command, clone: Path, stock: Path) -> None:
    """Run a line with everything there that it names, after what it needs; see that it leaves what it says."""
    from_top = command.words[1].startswith("scripts/")  # in a sentence of a package's page too
    folder = clone if from_top else clone / command.folder.relative_to(ROOT)
    line = line_of(command)
    for pattern, other in AFTER.items():
        if re.search(pattern, line):
            execute(next(one for one in RUN if other in line_of(one)), clone, stock)
    provide(command, folder, stock)
    case = ROOT / "tests/parity/cases/upsnet/pq_eval"
    backbone = "torchvision:swin_t" if "glip_tiny" in line else "torchvision:resnet50"  # for "--weights ..."
    filled = [backbone if pair == ("--weights", "...") else pair[1] for pair in pairwise(command.words)]
    words = [str(case) if word == "CASE..." else word for word in filled if word != "..."]
    if command.words[0] == "sbatch":  # tests/test_readme.py sees that the script starts torchrun so
        words = ["-m", "--", f"{words[1]}.train", *words[2:]]
    if command.words[0] == "maskworks":
        words = ["-m", *command.words]
    if command.words[0] in ("python", "maskworks"):
        done = python(*limited(words), cwd=folder)
    else:
        at = words.index("--")
        module = ["-m"] if "-m" in words[:at] else []
        count = 1 if "glip_tiny" in words else 2  # two of GLIP's trainings fill 24 GB
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started = [*start, *module, "--", *limited(words[at + 1 :], count)]
        done = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert left(words, done.stdout, folder), done.stdout


def limited(words: list[str], count: int = 1) -> list[str]:
    """The words with flags behind them that end it soon."""
    first = words[2] if words[1] == "maskworks" else words[1] if words[0] == "-m" else words[0].removesuffix(".py")
    program = re.findall(r"\w+", first)[-1]
    if "--help" in words or {"--image", "--images", "--video"} & {*words}:
        return words
    if "--benchmark" in words:
        return [*words, "--max-images", "2"]
    if "--accumulate" in words:
        return [*words, *LIMITS[program].format(count=2 * count).split(), "--accumulate", "2"]
    return [*words, *LIMITS.get(program, "").format(count=count).split()]


def provide(command: Command, folder: Path, stock: Path) -> None:
    """Put the files there that a line names, where nothing has left them yet."""
    if not (folder / "street.jpg").exists():
        shutil.copytree(stock / "here", folder, symlinks=True, dirs_exist_ok=True)
    if command.page.parent.name == "pose2seg":  # the same names stand for people there
        for split in ("train", "val"):
            shutil.copy(folder / f"{split}_people.json", folder / f"{split}.json")
    words = command.words
    for name in filter(NAME.fullmatch, words):
        place, variant = under_name(name)
        if not place.exists():
            place.parent.mkdir(parents=True)
            readme_files.save_ours(place, name.partition(":")[0], variant)
    for before, word in pairwise(words):
        if before == "--out" or not re.fullmatch(r"\S+\.(safetensors|pth|pkl)|FILE", word) or (folder / word).exists():
            continue
        if word.startswith("runs/"):
            readme_files.of_a_default_run(folder / word, Path(word).parts[1])
        else:
            if not (stock / word).exists():
                readme_files.weights(stock / word)
            (folder / word).symlink_to(stock / word)
    if words[1:] == ("eval.py",):
        readme_files.of_a_default_run(folder / f"runs/{folder.name}/shapes/best.safetensors", folder.name)
    for name in STANDS_FOR.keys() & set(words):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(folder / STANDS_FOR[name])


def left(words: list[str], said: str, folder: Path) -> bool:
    """Whether what a line writes is there."""
    pairs = list(pairwise(words))
    places = [word for before, word in pairs if before in ("--out", "--submission")]
    places += [word.split(":")[-1] for before, word in pairs if before in ("--image", "--images", "--video")]
    places += [word.partition("@sha256:")[0] for word in re.findall(r"^weights: (.*)$", said, re.MULTILINE)]
    places += re.findall(r"(\S+metrics\.json)", said)
    training = any(re.search(r"\btrain(\.py)?$", word) for word in words[:3]) and "--help" not in words
    return all((folder / place).exists() for place in places) and (bool(places) or not training)


@pytest.mark.parametrize("command", [one for one in RUN if any(word in line_of(one) for word in QUICK)], ids=str)
def test_a_quick_command_runs(command: Command, clone: Path, stock: Path) -> None:
    execute(command, clone, stock)


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in RUN if not any(w in line_of(one) for w in QUICK)], ids=str)
def test_a_command_runs(command: Command, clone: Path, stock: Path) -> None:
    execute(command, clone, stock)
