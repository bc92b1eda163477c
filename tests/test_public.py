"""What stands around the code for its public: the workflow runs what the pages say, the files fit the package."""

import re

import pytest
import yaml

import maskworks
from tests.test_house import ROOT

PUBLIC = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / "CITATION.cff"])
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))


def named_commands() -> set[str]:
    """Every line of code, and piece of code within the text, of the pages that say how to run things."""
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = (line.partition("  #")[0].strip() for block in blocks for line in block.splitlines())
    return {*lines, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))}


@pytest.mark.parametrize("file", PUBLIC, ids=lambda file: file.name)
def test_a_public_file_is_yaml_with_something_in_it(file):
    assert yaml.safe_load(file.read_text(encoding="utf-8"))


def test_the_workflow_runs_the_pages_commands_and_no_others():
    steps = [step for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    lines = [line for step in steps for line in step["run"].splitlines()]
    assert {"make lint", "make test", "make test-oldest"} <= set(lines)
    assert [line for line in lines if line not in named_commands()] == []


def test_the_workflow_covers_systems_and_pythons_and_may_only_read():
    jobs = WORKFLOW["jobs"]
    pythons = ["3.11", "3.12", "3.13"]
    assert jobs["test"]["strategy"]["matrix"] == {"os": ["ubuntu-latest", "macos-latest"], "python": pythons}
    assert (jobs["windows"]["runs-on"], jobs["windows"]["strategy"]["matrix"]["python"]) == ("windows-latest", pythons)
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == maskworks.__version__
    assert cited["license"] == "Apache-2.0"


def test_the_image_holds_the_wheel_alone_and_nobody_is_root_in_it():
    last = (ROOT / "Dockerfile").read_text(encoding="utf-8").split("\nFROM ")[-1]
    assert re.findall(r"^COPY (.*)$", last, re.MULTILINE) == ["--from=wheel /wheels /wheels"]
    assert last.index("\nUSER maskworks\n") < last.index("\nENTRYPOINT")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".*", "runs", "datasets", "tests"} <= set(ignored)  # .git, .venv and .env among the first
