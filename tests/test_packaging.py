"""What gets installed: all packages from the root, or one by one, with and without a C compiler."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import torch

from common.ops.masks import encode
from tests import running
from tests.small import flags

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/pyproject.toml"))
NEEDED = ["pyproject.toml", "README.md", "scripts", *PACKAGES]
NOT_SHIPPED = {".md", ".toml", ".png", ".jpg", ".svg"}  # what a package folder holds for its readers
LEFT_OVER = shutil.ignore_patterns("build", "dist", "runs", "__pycache__", "*.egg-info", "*.so")

pytest.importorskip("setuptools")


def copied(target: Path) -> Path:
    """The tree that is built, without what earlier builds left in the checkout."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=LEFT_OVER)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    return target


def built(folder: Path, out: Path, **environment: str) -> Path:
    """The wheel of the project in a folder."""
    out.mkdir(exist_ok=True)
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"  # as pip calls it
    where = {"cwd": folder, "env": os.environ | environment}
    done = subprocess.run([sys.executable, "-c", build], check=True, capture_output=True, text=True, **where)
    return out / done.stdout.split()[-1]


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def needed(wheel: Path) -> set[str]:
    """What a wheel asks for, extras aside."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    asked = (line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: "))
    return {line for line in asked if ";" not in line}


def sources(tree: Path, *packages: str) -> set[str]:
    found = (path for package in packages for path in (tree / package).rglob("*") if path.is_file())
    shipped = (path for path in found if path.suffix not in NOT_SHIPPED or path.name == "weights.toml")
    return {path.relative_to(tree).as_posix() for path in shipped}


def extensions(names: set[str]) -> set[str]:
    return {name for name in names if name.endswith((".so", ".pyd"))}


def environment(tmp_path: Path, wheels: list[Path]) -> tuple[Path, Path]:
    """A new one with these wheels beside this one's dependencies: its Python, and where it installs."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    target = subprocess.run([python, "-c", purelib], check=True, capture_output=True, text=True).stdout.strip()
    libraries = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    (Path(target) / "dependencies.pth").write_text("\n".join(libraries))
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*install, *map(str, wheels)], check=True)
    return python, Path(target)


def run_from_outside(tmp_path: Path, wheels: list[Path]) -> str:
    """Installs wheels, and runs a program elsewhere."""
    _, target = environment(tmp_path, wheels)
    program = """
import common, solov2, torch
from pathlib import Path
from common.ops.masks import decode, encode
import solov2.train, solov2.eval, solov2.predict
mask = torch.zeros(1, 40, 30, dtype=torch.bool)
mask[0, 5:20, 7:11] = True
assert (decode(encode(mask)) == mask.numpy()).all()
print(encode(mask)[0]["counts"], Path(common.__file__).parent.parent)
"""
    (tmp_path / "program.py").write_text(program)
    finished = running.python(tmp_path / "program.py", cwd=tmp_path, path=target)
    assert finished.returncode == 0, finished.stderr
    counts, where = finished.stdout.split(maxsplit=1)
    assert Path(where.strip()).resolve() == target.resolve()
    return counts


def test_packages_install_one_by_one_and_the_root_ships_nothing_stray(tmp_path: Path) -> None:
    tree, out = copied(tmp_path / "tree"), tmp_path / "wheels"
    shipped = {name: sources(tree, name) for name in PACKAGES}
    common, around, solov2 = (built(tree / name, out) for name in ("common", "maskworks", "solov2"))
    assert contents(common) - extensions(contents(common)) == shipped["common"]
    assert contents(around) == shipped["maskworks"]
    assert contents(solov2) == shipped["solov2"]
    assert f"maskworks-common @ {(tree / 'common').as_uri()}" in needed(solov2)  # found beside it
    alone = built(Path(shutil.copytree(ROOT / "solov2", tmp_path / "alone", ignore=LEFT_OVER)), tmp_path / "others")
    assert needed(alone) == {"maskworks-common<0.2,>=0.1", "maskworks-around<0.2,>=0.1"}
    # Those left build folders inside the packages; none of it may get into the next wheel.
    assert any((tree / "solov2" / "build").rglob("*.py"))
    everything = contents(built(tree, out))
    programs = {f"maskworks/scripts/{path.name}" for path in (tree / "scripts").glob("*.py")}
    assert everything - extensions(everything) == programs.union(*shipped.values())
    if shutil.which("cc"):
        assert len(extensions(everything)) == len(extensions(contents(common))) == 1
    assert run_from_outside(tmp_path, [common, around, solov2])


def test_without_a_compiler_everything_still_installs_and_works(tmp_path: Path) -> None:
    tree, out = copied(tmp_path / "tree"), tmp_path / "wheels"
    wheel = built(tree, out, CC="false", CXX="false")
    assert extensions(contents(wheel)) == set()
    mask = torch.zeros(1, 40, 30, dtype=torch.bool)
    mask[0, 5:20, 7:11] = True
    assert run_from_outside(tmp_path, [wheel]) == encode(mask)[0]["counts"]


@pytest.mark.slow
def test_what_is_installed_trains_evaluates_predicts_and_converts_without_the_clone(tmp_path: Path) -> None:
    """From the sdist, as an index would have it; about two minutes."""
    tree, out, home = copied(tmp_path / "tree"), tmp_path / "wheels", tmp_path / "elsewhere"
    sdist = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    home.mkdir()
    out.mkdir()
    subprocess.run([sys.executable, "-c", sdist], check=True, cwd=tree, capture_output=True)
    (archive,) = out.glob("*.tar.gz")
    wheel = built(archive, out)
    assert contents(wheel) == contents(built(tree, tmp_path / "direct"))
    data = flags("solov2", home)
    shutil.rmtree(tree)
    python, _ = environment(tmp_path, [wheel])
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def say(*words: str) -> None:
        done = subprocess.run(
            [python.with_name("maskworks"), *words], check=False, cwd=home, env=clean, capture_output=True
        )
        assert done.returncode == 0, done.stderr.decode()

    say("train", "solov2", *data, "--steps", "1", "--batch-size", "2", "--run", "run")
    best = "run/best.safetensors"
    say("eval", "--weights", best)
    say("predict", data[data.index("--data.val.images") + 1], "--weights", best, "--threshold", "0", "--out", "found")
    say("convert", "--help")
    assert (home / "found" / "report.html").is_file()
