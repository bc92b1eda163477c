"""Every module of every package can be imported, with whatever versions of the dependencies are installed."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = sorted(path.parent for path in ROOT.glob("*/pyproject.toml"))


def modules() -> list[str]:
    paths = (path.relative_to(ROOT) for package in PACKAGES for path in package.rglob("*.py"))
    sources = (path.with_suffix("") for path in paths if not {"build", "runs"} & set(path.parts))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in sources)


@pytest.mark.parametrize("name", modules())
def test_module_imports(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(name)
    assert capsys.readouterr().out == ""  # importing does nothing that a user would see


def test_all_packages_were_tried() -> None:
    assert {"common", "common.ops.masks", "solov2", "solov2.train"} <= set(modules())
