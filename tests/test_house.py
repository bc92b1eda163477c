"""The rules that hold the house together. Every rule is also shown to catch a tree that breaks it."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import maskworks

ROOT = Path(__file__).resolve().parent.parent
NOT_SOURCE = {"build", "dist", "runs", "__pycache__"}
OPTIONAL_IMPORTS = {"apex", "supervision"}  # the user's own, used where they have it: nothing here depends on it
SHIPPED_EXTRAS = ("glip", "psg", "tensorboard", "onnx")  # those that `test` brings
OUTSIDE = (
    "../" + "shared"
)  # the material that may not be shipped; in two pieces, so that this line is none that names it


# --- what is in a tree


def packages(root: Path) -> list[str]:
    """The installable packages: folders with an __init__.py and a pyproject.toml of their own."""
    return sorted(path.parent.name for path in root.glob("*/pyproject.toml") if (path.parent / "__init__.py").exists())


def files(folder: Path, *suffixes: str) -> list[Path]:
    """Source files under a folder, without what builds and runs leave there."""
    found = (path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file())
    return sorted(path for path in found if not is_left_over(path.relative_to(folder)))


def test_the_tests_that_continuous_integration_names_are_there() -> None:
    named = re.findall(
        r'^  "?(tests/[\w/]+\.py)(?:::(\w+))?', (ROOT / ".ci/fresh").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(named) > 9
    for file, test in named:
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


def is_left_over(path: Path) -> bool:
    return any(part in NOT_SOURCE or part.startswith(".") or part.endswith(".egg-info") for part in path.parts)


def configuration(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(folder: Path, extra: str | None = None) -> dict[str, Requirement]:
    """Distribution name -> requirement, of the dependencies or of one extra; ours left out."""
    project = configuration(folder)["project"]
    lines = project["optional-dependencies"][extra] if extra else project.get("dependencies", [])
    parsed = (Requirement(line) for line in lines)
    return {canonicalize_name(one.name): one for one in parsed if not one.name.startswith("maskworks")}


# --- imports


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it; a relative import starts with a dot.

    `from common import files` is common.files.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module in {"common", "maskworks"}:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (str(argument.value) for argument in node.args[:1] if isinstance(argument, ast.Constant))


def import_faults(root: Path) -> list[str]:
    """A model package imports common and maskworks , never another model; those two import none; all absolutely."""
    ours = set(packages(root)) | {"tests", "scripts", "datasets"}
    return [
        f"{path.relative_to(root).as_posix()} imports {name}"
        for package in packages(root)
        for path in files(root / package, ".py")
        for name in imports(path)
        if name.startswith(".") or name.partition(".")[0] in ours - {package, "common", "maskworks"}
    ]


def test_packages_import_common_and_never_each_other() -> None:
    assert import_faults(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("solov2/network.py", "from yolact.network import ProtoNet"),
        ("solov2/network.py", "def late():\n    import yolact"),
        ("solov2/network.py", "import importlib\nimportlib.import_module('yolact.network')"),
        ("solov2/network.py", "from . import losses"),
        ("solov2/network.py", "import tests.parity"),
        ("common/ops/nms.py", "from solov2 import load"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str) -> None:
    house(tmp_path)
    assert import_faults(tmp_path) == []
    write(tmp_path / file, line)
    assert len(import_faults(tmp_path)) == 1
    assert import_faults(tmp_path)[0].startswith(f"{file} imports ")


def undeclared(root: Path, known: dict[str, list[str]]) -> list[str]:
    """Third-party imports of a package that its own pyproject.toml doesn't ask for."""
    faults = []
    for package in packages(root):
        declared = set(requirements(root, "glip")) if package == "glip" else set()
        for folder in (root / package, root / "common"):
            extras = configuration(folder)["project"].get("optional-dependencies", {})
            declared = declared.union(*(requirements(folder, extra) for extra in (None, *extras)))
        for path in (path for path in files(root / package, ".py") if path.name != "setup.py"):  # it builds
            for name in {name.partition(".")[0] for name in imports(path)}:
                if name in sys.stdlib_module_names or name in packages(root) or name in OPTIONAL_IMPORTS:
                    continue
                if not declared & {canonicalize_name(distribution) for distribution in known.get(name, [name])}:
                    faults.append(f"{path.relative_to(root).as_posix()} imports {name}")
    return faults


def test_packages_import_only_what_they_declare(tmp_path: Path) -> None:
    known = dict(importlib.metadata.packages_distributions())
    assert undeclared(ROOT, known) == []
    house(tmp_path)
    write(tmp_path / "solov2/network.py", "import numpy\nimport pycocotools.mask\nimport apex")
    assert undeclared(tmp_path, known) == ["solov2/network.py imports pycocotools"]


# --- names


def dependency_names() -> set[str]:
    """Import names of every distribution that ours need, their own dependencies included."""
    wanted = [name for extra in ("", *SHIPPED_EXTRAS) for name in requirements(ROOT, extra)]
    seen: set[str] = set()
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        needed = (Requirement(line) for line in lines)
        wanted += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    distributions = importlib.metadata.packages_distributions().items()
    return {module for module, owners in distributions if seen & {canonicalize_name(owner) for owner in owners}}


def name_faults(root: Path, taken: set[str]) -> list[str]:
    """Modules that would shadow another when a program is run from the folder they lie in."""
    folders = [*packages(root), "scripts"]
    ours = {*packages(root), "datasets", "tests"}
    faults = [
        path.relative_to(root).as_posix()
        for folder in folders
        for path in files(root / folder, ".py")
        if module_name(path) in taken | ours and path.parent != root
    ]
    inner = [path for path in faults if path.removesuffix("/__init__.py") not in ours]
    return inner + [package for package in packages(root) if package in taken]


def module_name(path: Path) -> str:
    return path.parent.name if path.name == "__init__.py" else path.stem


def test_no_module_shadows_the_standard_library_or_a_dependency() -> None:
    taken = dependency_names()
    assert {"torch", "cv2", "numpy", "PIL", "yaml", "filelock"} <= taken  # also what torch needs
    assert name_faults(ROOT, taken | sys.stdlib_module_names) == []


@pytest.mark.parametrize(
    "file", ["solov2/types.py", "solov2/solov2.py", "common/numpy.py", "common/copy/__init__.py", "scripts/common.py"]
)
def test_a_shadowing_name_is_found(tmp_path: Path, file: str) -> None:
    house(tmp_path)
    taken = {"numpy"} | sys.stdlib_module_names
    assert name_faults(tmp_path, taken) == []
    write(tmp_path / file, "")
    assert name_faults(tmp_path, taken) == [file]


def test_datasets_is_no_package() -> None:
    # transformers asks whether Hugging Face's `datasets` can be imported, and would find this folder
    assert (ROOT / "datasets").is_dir()
    assert list((ROOT / "datasets").glob("__init__.py*")) == []


# --- packaging


def package_faults(root: Path) -> list[str]:
    """Where the lists of packages, in the root and in each package, differ from the folders with code."""
    faults = []
    folders: dict[str, set[str]] = {}
    for package in packages(root):
        sources = files(root / package, ".py", ".c", ".cu", ".typed")
        folders[package] = {".".join(path.parent.relative_to(root).parts) for path in sources}
        listed = set(configuration(root / package)["tool"]["setuptools"]["packages"])
        faults += [f"{package}/pyproject.toml: {name}" for name in sorted(listed ^ folders[package])]
        if not (root / package / "py.typed").exists():
            faults.append(f"{package}/py.typed is missing")
    listed = set(configuration(root)["tool"]["setuptools"]["packages"]) - {"maskworks.scripts"}  # scripts/, in a wheel
    faults += [f"pyproject.toml: {name}" for name in sorted(listed ^ set().union(*folders.values()))]
    checked = set(configuration(root)["tool"]["mypy"]["packages"])
    faults += [f"pyproject.toml, mypy: {name}" for name in sorted(checked ^ set(folders))]
    inits = {name: root.joinpath(*name.split("."), "__init__.py") for name in sorted(listed)}
    return faults + [f"{name} has no __init__.py" for name, init in inits.items() if not init.exists()]


def test_the_lists_of_packages_are_those_on_disk() -> None:
    assert package_faults(ROOT) == []


def test_a_package_that_is_not_listed_is_found(tmp_path: Path) -> None:
    house(tmp_path)
    assert package_faults(tmp_path) == []
    write(tmp_path / "common/build/lib/common/stray.py", "")  # a build leaves copies: they are no package
    assert package_faults(tmp_path) == []
    write(tmp_path / "common/metrics/__init__.py", "")
    assert package_faults(tmp_path) == ["common/pyproject.toml: common.metrics", "pyproject.toml: common.metrics"]
    (tmp_path / "common/ops/__init__.py").unlink()
    assert "common.ops has no __init__.py" in package_faults(tmp_path)


def test_every_pyproject_asks_for_the_same_versions() -> None:
    extras = configuration(ROOT)["project"]["optional-dependencies"]
    root = {name: one for extra in ("", *extras) for name, one in requirements(ROOT, extra).items()}
    assert set(requirements(ROOT)) == set().union(*(requirements(ROOT / package) for package in packages(ROOT)))
    of_users = {*extras} - {"all", "test", "dev", "docs", "export", "bench"}
    assert of_users == {*re.findall(r"\w+", extras["all"][0])} - {"maskworks"}
    built = (ROOT / "glip" / "setup.py").read_text(encoding="utf-8")
    assert all(f'"{one}"' in built for one in extras["glip"])
    for package in packages(ROOT):
        extras = configuration(ROOT / package)["project"].get("optional-dependencies", {})
        wanted = requirements(ROOT / package).values()
        for one in [*wanted, *(one for extra in extras for one in requirements(ROOT / package, extra).values())]:
            assert one.specifier == root[canonicalize_name(one.name)].specifier, f"{package}: {one}"
        assert configuration(ROOT / package)["project"].get("version", maskworks.__version__) == maskworks.__version__


def pins(path: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def test_constraints_pin_what_is_asked_for() -> None:
    newest, oldest = pins(ROOT / "constraints.txt"), pins(ROOT / "constraints-oldest.txt")
    lowest = {name: one for extra in ("", *SHIPPED_EXTRAS, "test") for name, one in requirements(ROOT, extra).items()}
    for name, one in {**lowest, **requirements(ROOT, "dev")}.items():
        assert one.specifier.contains(newest[name]), f"constraints.txt: {name}"
    for name, one in lowest.items():
        (bound,) = [clause.version for clause in one.specifier if clause.operator == ">="]
        assert re.match(rf"{re.escape(bound)}(\.|$)", oldest[name]), f"constraints-oldest.txt: {name}, not {bound}"
    assert not any("+" in version for version in [*newest.values(), *oldest.values()])


# --- what is committed


def outside_faults(root: Path, paths: list[Path]) -> list[str]:
    """Lines that name the material outside the repository; only .ci/run may, to hand it to the tests."""
    faults = []
    for path in paths:
        if not path.is_file() or path == root / ".ci" / "run":
            continue
        lines = path.read_bytes().splitlines()
        faults += [
            f"{path.relative_to(root).as_posix()}:{n}" for n, line in enumerate(lines, 1) if OUTSIDE.encode() in line
        ]
    return faults


def committed() -> list[Path]:
    """What git tracks or would add; skips where the code came without its repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.decode().split("\0") if name]


def test_no_committed_line_names_the_material_outside() -> None:
    assert outside_faults(ROOT, committed()) == []


def test_a_line_that_names_it_is_found(tmp_path: Path) -> None:
    write(tmp_path / ".ci/run", f"ls {OUTSIDE}/parity")
    write(tmp_path / "README.md", f"fine\nsee {OUTSIDE}/parity")
    assert outside_faults(tmp_path, [tmp_path / ".ci/run", tmp_path / "README.md"]) == ["README.md:2"]


def dead_links(root: Path, pages: list[Path]) -> list[str]:
    """Relative links of the Markdown pages that lead nowhere."""
    link = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
    return [
        f"{page.relative_to(root).as_posix()}: {target}"
        for page in pages
        for target in link.findall(page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]


def test_links_between_pages_lead_somewhere(tmp_path: Path) -> None:
    assert dead_links(ROOT, [path for path in committed() if path.suffix == ".md" and path.is_file()]) == []
    write(tmp_path / "README.md", "[here](README.md#top) [there](gone.md) [out](https://example.org/)")
    assert dead_links(tmp_path, [tmp_path / "README.md"]) == ["README.md: gone.md"]


# --- a small house that keeps the rules, for the tests to break


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def house(root: Path) -> None:
    inner = {"common": ["common", "common.ops"], "solov2": ["solov2"], "yolact": ["yolact"]}
    everything = [name for names in inner.values() for name in names]
    write(root / "pyproject.toml", f"[tool.setuptools]\npackages = {everything}\n[tool.mypy]\npackages = {list(inner)}")
    for package, names in inner.items():
        for name in names:
            write(root.joinpath(*name.split("."), "__init__.py"), "import numpy\nimport common.ops")
        write(root / package / "py.typed", "")
        project = "[project]\ndependencies = ['numpy>=2']\noptional-dependencies = {export = []}\n"
        write(root / package / "pyproject.toml", f"{project}[tool.setuptools]\npackages = {names}")
    write(root / "scripts" / "convert.py", "import solov2\nimport yolact")
