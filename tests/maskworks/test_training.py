"""Training from Python is the command's: the same files, errors that are raised, callbacks that are told."""

import re
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

import solov2
import upsnet
from common.errors import UserError
from common.run.callbacks import Callback
from common.run.checkpoint import load
from maskworks import training
from maskworks.command_line.yaml_files import flags as as_flags
from maskworks.packages import NETWORKS
from tests.running import logged_steps, python
from tests.small import flags

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
QUICK = {"steps": 2, "batch_size": 2, "workers": 0, "device": "cpu", "report": False}
SIZES = {"augment.long_side": 96, "augment.short_sides": 96, "test.long_side": 96, "test.short_side": 96}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> dict:
    """Of the smallest model, named as in a YAML file."""
    words = flags("solov2", tmp_path_factory.mktemp("data"))
    named = {name.removeprefix("--"): value for name, value in zip(words[::2], words[1::2], strict=True)}
    return SIZES | {name: yaml.safe_load(value) for name, value in named.items()}


class Listening(Callback):
    def __init__(self, enough: int = 0):
        self.steps, self.evaluated, self.ended, self.enough = [], [], [], enough

    def on_step(self, step, values):
        self.steps.append((step, values["loss"]))

    def on_evaluate(self, step, scores):
        self.evaluated.append((step, scores["segm"]["AP"]))
        return step == self.enough

    def on_end(self, run):
        self.ended.append(run)


def test_a_training_leaves_what_the_command_does_and_tells_its_callbacks(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told, quick, before = Listening(), QUICK | {"report": True}, solov2.train
    run = solov2.train(run="one", callbacks=[told, Callbacks()], **quick, **settings)
    python("-m", "solov2.train", *as_flags(quick | settings), "--run", "two", cwd=tmp_path)
    ours, commands = load(run.weights), load(Path("two/best.safetensors"))
    assert ours.config == commands.config
    assert all(torch.equal(value, commands.weights[name]) for name, value in ours.weights.items())
    assert run.report == Path("one/report.html")
    assert run.scores["segm"].keys() >= {"AP", "AP50"}
    assert told.steps == [(line["step"], line["loss"]) for line in logged_steps(Path("two"))]
    assert told.evaluated == [(2, run.scores["segm"]["AP"])]
    assert told.ended == [run]
    assert "python -m solov2.eval --weights one/best.safetensors" in capsys.readouterr().out
    assert solov2.train is before  # running the program has not put its module in the function's place


class Callbacks:
    """Nobody's subclass."""

    def on_step(self, step, values): ...

    def on_evaluate(self, step, scores): ...

    def on_end(self, run): ...


def test_a_callback_that_has_seen_enough_ends_the_run_in_any_thread(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    told = Listening(enough=2)
    longer = QUICK | {"steps": 8, "evaluate_every": 1}  # of 4 pictures: an evaluation after each second step
    thread = threading.Thread(target=lambda: solov2.train(callbacks=[told], run="run", **longer, **settings))
    thread.start()
    thread.join()
    assert [step for step, _ in told.steps] == [1, 2]
    assert [run.folder for run in told.ended] == [Path("run")]
    assert "a callback has seen enough: the run ends after step 2 of 8" in capsys.readouterr().out


@pytest.mark.parametrize("package", [*NETWORKS, "refinemask_psg.u2net"])
def test_a_wrong_setting_is_raised_by_every_package(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--optimizer\.lrr: no such flag; did you mean --optimizer\.lr"):
        import_module(package).train(optimizer={"lrr": 1})


def test_a_programs_module_that_was_imported_is_called_as_the_function_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = import_module("upsnet.train")
    assert upsnet.train is module
    with pytest.raises(UserError, match="no variant is called 'shape'; did you mean shapes"):
        upsnet.train("shape", epochs=1)


def test_what_is_no_callback_is_refused_before_anything_is_read():
    with pytest.raises(UserError, match="expected an object with on_step"):
        training.start("solov2", "", {}, [Listening])
    with pytest.raises(UserError, match="expected an object with on_step"):
        solov2.train(callbacks=[print])


def test_the_pages_programs_run(settings, tmp_path, monkeypatch):
    """With stand-ins for the two services, and small settings in the place of the pictures'."""
    monkeypatch.chdir(tmp_path)
    logged = []
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    wandb.init = mlflow.log_artifacts = lambda *words, **named: logged.append((words, named))
    wandb.log = mlflow.log_metrics = lambda values, step: logged.append((step, sorted(values)))
    mlflow.start_run = threading.Lock
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    small = solov2.train
    monkeypatch.setattr(solov2, "train", lambda callbacks=(), **_: small(callbacks=callbacks, **QUICK, **settings))
    names: dict = {}
    for program in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(program, names)
    assert names["model"].class_names == solov2.load(names["run"].weights).class_names
    assert (2, ["AP"]) in logged
    assert [step for step, values in logged if "lr" in values] == [1, 2, 1, 2]
    assert ((str(names["run"].folder),), {}) in logged
