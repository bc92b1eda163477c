"""What few people need is asked for when it is needed: a missing library is a line that says what to install."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import maskworks
from common.errors import UserError, needing
from common.run.runlog import RunLog
from glip.config import VARIANTS
from glip.network import GLIP
from maskworks.packages import NETWORKS
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.relation_head import RelationHead

OPTIONAL = (
    *("transformers", "tokenizers", "tensorboard", "onnx", "onnxruntime", "openvino", "nncf", "gradio"),
    *("huggingface_hub", "nltk"),
)
SLOW = ("yaml", "filelock", "rich")  # to import, though always there: for commands, not for who loads a model
ROOT = Path(maskworks.__file__).parents[1]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the optional libraries."""
    for name in [*OPTIONAL, "torch.utils.tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    yield


def test_no_package_needs_an_optional_library_to_be_imported() -> None:
    """In one new Python; solov2 first, alone, which is then what its import costs."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))
import torch, torchvision
before = set(sys.modules)
import solov2
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} & set({SLOW})))
from importlib import import_module
for name in {tuple(NETWORKS)}:
    for module in ("convert", "train", "eval", "predict"):
        import_module(f"{{name}}.{{module}}")
    assert import_module(name).__version__ == {maskworks.__version__!r}
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_line_names_what_is_missing_and_what_to_install() -> None:
    with (
        pytest.raises(UserError, match=r"^flying needs wings_of_wax, which is not installed: pip install wings wax$"),
        needing("flying", "wings wax"),
    ):
        import wings_of_wax  # type: ignore[import-not-found]  # noqa: F401


def test_glip_and_the_relation_head_say_that_they_need_transformers(bare: None) -> None:
    with pytest.raises(UserError, match=r"GLIP needs \w+, .*: pip install transformers tokenizers$"):
        GLIP(VARIANTS["shapes"], ("cat",), (1,))
    with pytest.raises(UserError, match=r"the relation head needs transformers, .*: pip install transformers$"):
        RelationHead(Relations(head="bert"), 3)


def test_without_tensorboard_a_run_has_its_log_and_says_so(
    bare: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, 0)
    log.step(1, 0, {"loss": 2.0})
    log.metrics(1, 0, {"segm": {"AP": 0.5}})
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "pip install tensorboard" in out


# --- a folder `common` of somebody else's


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's project with a package of that name."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("answer = 42")
    return tmp_path


def python(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "import sys; sys.path.append(sys.argv.pop(1)); " + words[0], str(ROOT), *words[1:]]
    return subprocess.run(program, check=False, cwd=project, capture_output=True, text=True, env={"PATH": ""})


def test_a_command_says_in_a_line_that_another_common_is_in_the_way(project: Path) -> None:
    run = "import runpy; sys.argv[0] = '-m'; runpy.run_module('solov2.predict', run_name='__main__', alter_sys=True)"
    done = python(project, run)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: Python finds {project / 'common'} in place of {ROOT / 'common'}, which")
    assert "rename yours, or start Python from another folder" in done.stderr


def test_so_does_an_import_whichever_package_it_is_of(project: Path) -> None:
    tried = "\n    ".join(f"try: import {name}\n    except ImportError as error: print(error)" for name in NETWORKS)
    done = python(project, f"import common\nif common.answer:\n    {tried}")
    lines = done.stdout.splitlines()
    assert len(lines) == len(NETWORKS), done.stderr
    assert set(lines) == {lines[0]}
    assert lines[0].startswith(f"Python finds {project / 'common'} in place of {ROOT / 'common'}, which maskworks")
