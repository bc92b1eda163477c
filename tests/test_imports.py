"""Every module of every package can be imported, with whatever versions of the dependencies are installed."""

import importlib

import pytest

from tests.test_house import ROOT, files, packages


def modules() -> list[str]:
    sources = (path.relative_to(ROOT) for package in packages(ROOT) for path in files(ROOT / package, ".py"))
    return sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in sources)


@pytest.mark.parametrize("name", modules())
def test_module_imports(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(name)
    assert capsys.readouterr().out == ""  # importing does nothing that a user would see


def test_all_packages_were_tried() -> None:
    assert {"common", "common.ops.masks", "solov2", "solov2.train"} <= set(modules())
