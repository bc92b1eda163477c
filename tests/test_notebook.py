"""The notebook: nothing of anybody's machine in it, and every cell runs, one after the other in one process."""

import json

import pytest

from tests.test_house import ROOT

CELLS = json.loads((ROOT / "notebooks/maskworks.ipynb").read_text(encoding="utf-8"))["cells"]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_a_notebook_is_kept_without_what_it_has_printed():
    assert len(CODE) > 5
    assert [cell for cell in CODE if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.slow  # trains
def test_every_cell_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    names: dict[str, object] = {}
    for cell in CODE:
        lines = [line for line in cell["source"] if not line.startswith("%")]  # installs
        exec("".join(lines).replace("STEPS = 450", "STEPS = 2"), names)
    assert "40 pictures to validate, 1363 nuclei" in capsys.readouterr().out
    assert (tmp_path / "runs/solov2/notebook/report.html").is_file()
