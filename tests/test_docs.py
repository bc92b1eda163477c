"""The documentation's site: complete, true to the code in what it names, and built without a warning."""

import re
import subprocess
import sys
from importlib import import_module

import pytest

from maskworks.packages import NETWORKS
from tests.test_house import ROOT, files
from tests.test_readme import DOCS, SPAN

WORDS = {"one": 1, "five": 5, "eight": 8, "eleven": 11, "eighteen": 18}
CHINESE = {"一个": 1, "五个": 5, "八个": 8, "十一个": 11, "十八个": 18}
OURS = {"shapes", "psg_shapes", "small"}  # variants that nobody published
NAME = re.compile(r"[\w/]+\.py|[a-z]+_[a-z_]+|[A-Z][a-z]+[A-Z]\w+")  # files, names


@pytest.mark.parametrize("package", NETWORKS)
def test_a_models_page_names_what_is_in_its_package(package):
    text = (ROOT / f"docs/models/{package}.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in files(ROOT / package, ".py"))
    spans = [span for span in SPAN.findall(text) if NAME.fullmatch(span)]
    assert len(spans) >= 4
    for span in spans:
        assert (ROOT / span).exists() if span.endswith(".py") else re.search(rf"\b{span}\b", code), span


def test_a_readme_is_short_and_its_table_counts_the_variants():
    counts = {}
    for name, language in (("README.md", WORDS), ("README.zh.md", CHINESE)):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 150
        rows = re.findall(r"^\| \[(\w+)\]\(\w+/README.md\) \| .*? \| .*? \| (\w+)", text, re.MULTILINE)[: len(NETWORKS)]
        counts[name] = {package: language.get(word, 0) for package, word in rows}
    published = {package: import_module(package).VARIANTS.keys() - OURS for package in NETWORKS}
    assert counts["README.md"] == {package: len(variants) for package, variants in published.items()}
    assert counts["README.zh.md"] == counts["README.md"]


def test_every_page_is_in_the_sites_menu():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    pages = {path.relative_to(ROOT).as_posix() for path in DOCS}
    packages = {f"{package}/README.md" for package in NETWORKS}
    assert sorted((pages | packages) - set(listed)) == []
    assert [page for page in listed if not (ROOT / page).is_file()] == []


def test_what_the_reference_shows_exists():
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(encoding="utf-8"), re.MULTILINE):
        module, _, last = name.rpartition(".")
        place = ROOT.joinpath(*module.split("."))
        source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        assert re.search(rf"^(class|def) {last}\b", source.read_text(encoding="utf-8"), re.MULTILINE), name


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocstrings")
    pytest.importorskip("material")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs/models/solov2/index.html").is_file()
    assert "Predicts with a file" in (tmp_path / "docs/reference/index.html").read_text(encoding="utf-8")
