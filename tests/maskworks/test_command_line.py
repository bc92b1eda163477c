"""Every command refuses in one line what its settings cannot be, names what was meant, and its help fits a screen."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.run.configuration import from_dict, to_dict
from maskworks.command_line import program
from maskworks.command_line.allowed import expected, faults
from maskworks.command_line.table import settings_of
from maskworks.command_line.variants import configure
from maskworks.packages import NETWORKS
from tests.running import status
from tests.test_house import ROOT, files

PACKAGES = [*NETWORKS, "refinemask_psg.u2net"]
RUN = ["train", "eval"]
TRAINING = {  # of train.py and eval.py: flags that have no meaning, and what is expected
    "--batch-size 0": "1 or more",
    "--accumulate 0": "1 or more",
    "--workers -2": "-1 or more",
    "--workers 1000000": "-1 or more, at most 1024",
    "--batch-size 9999999": "1 or more, at most 100000",
    "--steps 9223372036854775808": "0 or more, at most 1000000000",
    "--seed -1": "0 to 4294967295",
    "--optimizer.lr nan": "a number, 0 or more",
    "--optimizer.betas 0.9 1": "0 or more and less than 1",
    "--optimizer.ema 2": "0 or more and less than 1",
    "--steps -5": "0 or more",
    "--epochs -1": "0 or more",
    "--save-every -1": "1 or more",
    "--schedule.warmup -3": "0 or more",
    "--minutes inf": "0 or more",
    "--limit -1": "0 or more",
    "--data.seed -1": "0 to 4294967295",
}
OF_PACKAGES = [
    ("solov2", "--test.max-instances -1", "1 or more"),
    ("solov2", "--model.grids 0 0 0 0 0", "1 to 65536"),
    ("solov2", "--model.fpn-channels 0", "1 to 65536"),
    ("yolact", "--model.input-size 1099511627776", "1 to 65536"),
    ("maskrcnn", "--proposals.kept 0", "1 or more"),
    ("upsnet", "--test.proposals.kept 0", "1 or more"),
    ("pose2seg", "--augment.people 0", "1 or more"),
    ("glip", "--text.layers 1000000", "1 to 1000"),
    ("refinemask_psg", "--relations.dropout 1", "less than 1"),
    ("refinemask_psg.u2net", "--augment.crop 0", "1 to 65536"),
]
PREDICTION = {
    "--report-images -1": "0 or more",
    "--limit -1": "0 or more",
    "--threshold nan": "0 to 1",
    "--max-megapixels 0": "more than 0",
}
NO_RANGE = {"--model.head-identity", "--model.mean", "--test.smallest-joint-score"}  # any number will do


def refused(package: str, command: str, words: list[str], capsys: Any) -> str:
    """The one line in which a command ends with status 2."""
    assert status(import_module(f"{package}.{command}").main, *words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err.strip()


@pytest.mark.parametrize(
    ("package", "flags", "allowed"),
    [
        *(("solov2", flags, allowed) for flags, allowed in TRAINING.items()),
        *((package, "--batch-size 0", "1 or more") for package in PACKAGES[1:]),
        *OF_PACKAGES,
    ],
)
@pytest.mark.parametrize("command", RUN)
def test_a_value_out_of_its_range_is_refused_with_flag_value_and_range(
    package: str, command: str, flags: str, allowed: str, capsys: Any
) -> None:
    line = refused(package, command, shlex.split(flags), capsys)
    flag, *values = flags.split()
    assert any(line.startswith(f"error: {flag} {value}") for value in values)
    assert line.endswith(allowed)


@pytest.mark.parametrize("package", PACKAGES)
def test_predictions_refuse_values_out_of_their_range(package: str, capsys: Any) -> None:
    for flags, allowed in PREDICTION.items():
        words = ["street.jpg", "--weights", "none.safetensors", *shlex.split(flags)]
        line = refused(package, "predict", words, capsys)
        assert line.startswith(f"error: {flags}")
        assert line.endswith(allowed)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_number_has_a_range_and_every_variant_is_within(package: str) -> None:
    for config in import_module(f"{package}.config").VARIANTS.values():
        settings = list(settings_of(type(config), config))
        bare = {s.flag for s in settings if expected(s.kind).endswith("number")}
        assert bare <= NO_RANGE
        assert [(s.flag, each) for s in settings for each in faults(s.kind, s.value)] == []


def test_a_file_of_settings_is_held_to_the_same_ranges(tmp_path: Any, capsys: Any) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("optimizer:\n  lr: .nan\n")
    line = refused("solov2", "train", ["--config", str(file)], capsys)
    assert line == f"error: {file}: --optimizer.lr nan: expected a number, 0 or more"
    file.write_text("variant: r50_3y\n")
    assert "did you mean r50_3x?" in refused("solov2", "train", ["--config", str(file)], capsys)


def test_a_checkpoint_is_held_to_the_same_ranges() -> None:
    solov2 = import_module("solov2.config")
    settings = to_dict(solov2.VARIANTS["shapes"])
    settings["model"]["fpn_channels"] = 2**40
    with pytest.raises(UserError, match=r"x\.safetensors: its configuration.*model\.fpn_channels"):
        from_dict(solov2.Config, settings, "x.safetensors")


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", "r50_3", "no variant is called 'r50_3'; did you mean r50_3x? there are shapes, small,"),
        ("train", "--variant r50_3x", "--variant r50_3x: a variant is named first, without a flag: train.py r50_3x"),
        ("train", "--variant=r50_3", "no variant is called 'r50_3'; did you mean r50_3x?"),
        ("train", "--batch-siz 3", "--batch-siz: no such flag; did you mean --batch-size?"),
        ("train", "--optimizer.lrr 1", "did you mean --optimizer.lr?"),
        ("train", "--epoch 3", "did you mean --epochs?"),
        ("train", "--no-repart", "--no-repart: no such flag; did you mean --report?"),
        ("train", "--precision fp61", "--precision fp61: expected one of fp32, bf16, fp16; did you mean fp16?"),
        ("train", "--model.backbone=resnet5", "one of resnet10, resnet18, resnet34, resnet50, resnet101,"),
        ("eval", "--batch-size many", "--batch-size many: expected a whole number, 1 or more"),
        ("eval", "--batch-size", "--batch-size: expected a whole number, 1 or more"),
        ("eval", "--epochs 3 r50_3x", "not understood here: r50_3x"),
        ("predict", "street.jpg", "--weights is needed: A checkpoint of ours"),
        ("predict", "street.jpg --weight x", "--weight: no such flag; did you mean --weights?"),
        ("train", "--device cuda:77", "--device cuda:77: not to be had here"),
        ("train", "--device meta", "--device meta: not to be had here"),
        ("train", "--device abacus", "--device abacus: not to be had here"),
        ("train", "--start-step -1", "--start-step -1: expected"),
    ],
)
def test_what_is_not_known_is_named_with_what_was_meant(
    command: str, words: str, said: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused("solov2", command, shlex.split(words), capsys)
    assert not list(tmp_path.iterdir()) or "--start-step" in words  # which is looked at within the run's folder


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("command", [*RUN, "predict"])
def test_help_fits_on_a_screen(package: str, command: str, monkeypatch: Any, capsys: Any) -> None:
    module = import_module(f"{package}.{command}")
    monkeypatch.setattr(sys, "argv", [f"{command}.py", "--help"])
    with pytest.raises(SystemExit) as stop:
        program.run(module.main)
    assert not stop.value.code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert f"usage: {command}.py " in "\n".join(lines)
    text = "\n".join(lines)
    named = import_module(f"{package}.config").VARIANTS if command in RUN else ["--weights", "--threshold"]
    assert [name for name in named if f"  {name} " not in text and f"  {name}\n" not in text] == []


def test_the_whole_help_has_every_setting_with_its_range_and_value(capsys: Any) -> None:
    variants = import_module("solov2.config").VARIANTS
    with pytest.raises(SystemExit):
        configure(variants, ["r50_3x", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    settings = settings_of(type(variants["shapes"]))
    assert [s.flag for s in settings if f" {s.flag} " not in text] == [
        *("--variant", "--data.path", "--data.recipe", "--data.augment")
    ]
    assert "--optimizer.lr Learning rate for `batch_size` images. (a number, 0 or more; default 0.01)" in text


def failing() -> None:
    raise ZeroDivisionError("division by\nnothing")


def test_what_nobody_foresaw_is_a_line_and_a_private_file(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert status(failing) == 70
    (file,) = tmp_path.iterdir()
    said = f"error: ZeroDivisionError: division by; the traceback is in {file}, and --traceback prints it\n"
    assert capsys.readouterr().err == said
    assert "in failing" in file.read_text(encoding="utf-8")
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600


def test_without_a_temporary_folder_it_is_a_line_still(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert status(failing) == 70
    assert re.fullmatch(r"error: ZeroDivisionError.*could not be kept \(.+\).*\n", capsys.readouterr().err)


@pytest.mark.parametrize(("error", "ended"), [(ZeroDivisionError("nothing"), 70), (UserError("no such file"), 2)])
def test_traceback_shows_it_and_is_no_word_of_the_command(
    error: Exception, ended: int, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    def main() -> None:
        assert sys.argv[1:] == ["--steps", "3"]
        raise error

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert status(main, "--traceback", "--steps", 3) == ended
    said = capsys.readouterr().err
    assert said.startswith("Traceback") and "in main" in said
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_stays_one() -> None:
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        status(main)


def test_every_program_runs_by_it() -> None:
    """But for the benchmarks, which developers run, and what builds or only names another program."""
    spared = {
        "scripts/benchmarks.py",
        "scripts/mask_edges.py",
        "common/ops/focal_loss_cuda.py",
        "common/run/weights.py",
    }
    rooms = ("scripts", "common", "maskworks", *NETWORKS)
    sources = {
        str(path.relative_to(ROOT)): path.read_text("utf-8") for room in rooms for path in files(ROOT / room, ".py")
    }
    programs = {name: text for name, text in sources.items() if 'if __name__ == "__main__":' in text}
    started = re.compile(r"\b(program|training)\.run\(").search
    others = {name for name, text in programs.items() if not started(text) and not name.endswith("setup.py")}
    assert {"maskworks/__main__.py", "solov2/train.py", "scripts/demo.py"} <= set(programs)
    assert {name for name in others if not name.startswith("scripts/bench/")} == spared


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_flags_and_their_values_are_completed(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["predict.py", "--tyro-print-completion", "bash"])
    with pytest.raises(SystemExit) as end:
        import_module("solov2.predict").main()
    assert not end.value.code
    asked = "COMP_WORDS=(x {0}); COMP_CWORD={1}; _tyro_predict_py x; echo ${{COMPREPLY[@]}}"
    lines = [capsys.readouterr().out, asked.format("--pre", 1), asked.format("--precision b", 2)]
    done = subprocess.run(["bash"], input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["--precision", "bf16"], done.stderr
