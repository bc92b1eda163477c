"""What eval.py evaluates and where it writes: flags before the file, the file before the checkpoint's own settings."""

import json
import shlex
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from common.data.coco import CocoDataset
from common.errors import UserError
from common.run import checkpoint
from common.run.configuration import from_dict, to_dict
from maskworks.command_line.variants import configure
from maskworks.command_line.yaml_files import to_yaml
from maskworks.commands.runs import INSTANCES, describe_limits, evaluation_folder, model_to_evaluate
from solov2.config import VARIANTS, Config

OF_THE_CHECKPOINT = "--precision bf16 --test.max-instances 7 --batch-size 3"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the run `trained` and the default run in it."""
    for run in ("trained", "runs/solov2/shapes", "runs/solov2/light_r18_448"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "best.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@cache
def of_the_checkpoint() -> Config:
    return configure(VARIANTS, shlex.split(f"light_r18_448 {OF_THE_CHECKPOINT}"))


def evaluated(line: str) -> Config:
    """The settings of an evaluation; its checkpoint is one of light_r18_448, trained with other settings."""
    model = SimpleNamespace(config=deepcopy(of_the_checkpoint()))
    model.to = lambda *_, **__: model
    _, config = model_to_evaluate("solov2", VARIANTS, lambda path: model, line.split())
    return config


@pytest.mark.parametrize(
    ("file", "flags", "expected"),
    [
        ("run: trained", "", "trained/best.safetensors"),
        ("weights: other.safetensors", "", "other.safetensors"),
        ("weights: other.safetensors\nrun: trained", "", "other.safetensors"),
        ("weights: other.safetensors", "--weights flag.safetensors", "flag.safetensors"),
        ("weights: other.safetensors", "--weights=flag.safetensors", "flag.safetensors"),
        ("run: nowhere", "--run trained", "trained/best.safetensors"),
        ("training:\n  run: trained", "", "trained/best.safetensors"),
        ("variant: light_r18_448", "", "runs/solov2/light_r18_448/best.safetensors"),
        ("seed: 3", "", "runs/solov2/shapes/best.safetensors"),
    ],
)
def test_the_file_names_the_checkpoint_unless_a_flag_does(folder: Path, file: str, flags: str, expected: str) -> None:
    (folder / "my.yaml").write_text(file)
    assert evaluated(f"--config my.yaml {flags}").training.weights == expected
    assert evaluated(f"{flags} --config=my.yaml").training.weights == expected


def test_crowded_pictures_are_spoken_of_and_a_limit_that_nothing_reads_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    image = {"id": 1, "file_name": "a.png", "height": 20, "width": 40}
    entry = {"image_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    labels = [1] * 130 + [2] * 20
    entries = [entry | {"id": at, "category_id": label} for at, label in enumerate(labels, start=1)]
    classes = [{"id": 1, "name": "cell"}, {"id": 2, "name": "spot"}]
    text = json.dumps({"images": [image], "annotations": entries, "categories": classes})
    (tmp_path / "a.json").write_text(text)
    dataset = CocoDataset([tmp_path], [tmp_path / "a.json"])
    describe_limits(configure(VARIANTS, []), dataset)
    assert capsys.readouterr().out.splitlines() == [
        "note: 1 of 1 pictures hold up to 130 objects of a class, and the score looks at 100 of each: "
        "--max-detections 130 looks at all",
        "note: 1 of 1 pictures hold up to 150 objects, and the network answers with 100 at most: "
        "--test.max-instances 150 allows all",
    ]
    describe_limits(configure(VARIANTS, shlex.split("--max-detections 130 --test.max-instances 150")), dataset)
    assert not capsys.readouterr().out
    for package, flags in (("upsnet", "--max-detections 130"), ("solov2", "--max-detections 10")):
        with pytest.raises(UserError, match=f"^{flags}: "):
            evaluation_folder(package, evaluated(flags), scoring=INSTANCES if package == "solov2" else None)


def test_a_variant_names_its_default_run_and_no_settings() -> None:
    config = evaluated("light_r18_448 --batch-size 5")
    assert config.training.weights == "runs/solov2/light_r18_448/best.safetensors"
    assert (config.training.precision, config.training.batch_size) == ("bf16", 5)


def test_a_runs_own_config_names_what_it_made_and_not_what_it_started_from(folder: Path) -> None:
    config = configure(VARIANTS, shlex.split(f"light_r18_448 --weights start.safetensors {OF_THE_CHECKPOINT}"))
    (folder / "trained" / "config.yaml").write_text(to_yaml(config))
    assert evaluated("--config trained/config.yaml").training.weights == "trained/best.safetensors"
    assert evaluated("--config trained/config.yaml --weights w.safetensors").training.weights == "w.safetensors"
    assert configure(VARIANTS, ["--config", "trained/config.yaml"]).training.weights == "start.safetensors"


def test_flags_win_over_the_file_and_the_file_over_the_checkpoint(folder: Path) -> None:
    (folder / "my.yaml").write_text("batch_size: 4\nseed: 9\ntest:\n  mask_threshold: 0.25\n")
    config = evaluated("--config my.yaml --seed 8")
    assert (config.training.seed, config.training.batch_size, config.training.precision) == (8, 4, "bf16")
    assert (config.test.mask_threshold, config.test.max_instances) == (0.25, 7)


@pytest.mark.parametrize(
    ("file", "flags", "named"),
    [
        ("{}", "--model.fpn-channels 32", "model.fpn_channels: 256 before, 32 now"),
        ("model:\n  tower_depth: 3", "", "model.tower_depth: 2 before, 3 now"),
        ("variant: light_r50_448", "", "variant: light_r18_448 before, light_r50_448 now"),
        ("model:\n  mean: [0, 0, 0]", "", "model.mean: "),
    ],
)
def test_settings_of_another_network_than_the_checkpoints_are_refused(
    folder: Path, file: str, flags: str, named: str
) -> None:
    (folder / "my.yaml").write_text(file)
    with pytest.raises(UserError, match=r"w\.safetensors holds another network than the settings ask for: ") as refused:
        evaluated(f"--config my.yaml --weights w.safetensors {flags}")
    assert named in str(refused.value)


def test_a_variant_beside_another_variants_checkpoint_is_refused() -> None:
    with pytest.raises(UserError, match="light_r50_448: the checkpoint is one of light_r18_448"):
        evaluated("light_r50_448 --weights w.safetensors")


def test_what_only_training_reads_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    evaluated("--weights w.safetensors --limit 3 --test.max-instances 9 --data.seed 4")
    assert capsys.readouterr().err == ""
    evaluated("--weights w.safetensors --optimizer.lr 0.5 --epochs 99 --augment.flip 0.0")
    assert capsys.readouterr().err == "of no effect on an evaluation: training.epochs, augment.flip, optimizer.lr\n"


def test_each_evaluation_has_a_folder_of_its_own_in_the_run(folder: Path) -> None:
    (folder / "trained" / "config.yaml").touch()
    lines = [
        "--weights trained/best.safetensors",
        "--weights trained/last.safetensors",
        "--weights trained/best.safetensors --limit 5",
        "--weights trained/best.safetensors --data.val.images a --data.val.annotations a/val.json",
        "--weights trained/best.safetensors --data.val.images b --data.val.annotations b/val.json",
        "--weights trained/best.safetensors --test.score-threshold 0.5",
        "--weights trained/best.safetensors --precision fp32",
    ]
    folders = [evaluation_folder("solov2", evaluated(line)) for line in lines]
    assert len(set(folders)) == len(lines)
    assert {path.parent for path in folders} == {Path("trained")}
    assert folders[3].name.startswith("eval-best-val-")
    same = f"{lines[0]} --device cpu --workers 3 --overwrite"
    assert evaluation_folder("solov2", evaluated(same)) == folders[0]
    elsewhere = evaluation_folder("solov2", evaluated(f"{lines[0]} --run other"))
    assert elsewhere == Path("other") / folders[0].name


def test_an_earlier_evaluation_is_replaced_only_when_asked(folder: Path) -> None:
    made = evaluation_folder("solov2", evaluated(""))
    made.mkdir()
    assert evaluation_folder("solov2", evaluated("")) == made
    (made / "metrics.json").touch()
    with pytest.raises(
        UserError, match=r"shapes/eval-best-instances_val2017-\w+: has been evaluated before; --overwrite"
    ):
        evaluation_folder("solov2", evaluated(""))
    assert evaluation_folder("solov2", evaluated("--overwrite")) == made


def test_a_checkpoint_brings_no_settings_of_the_machine_that_made_it(folder: Path) -> None:
    flags = "--run r --weights w --device cuda:3 --workers 9 --resume --overwrite --precision bf16"
    config = configure(VARIANTS, flags.split())
    made = folder / "made.safetensors"
    checkpoint.save(made, checkpoint.Checkpoint("solov2", to_dict(config), ("a",), (1,), {"x": torch.zeros(1)}))
    written = checkpoint.load(made).config
    assert not {"run", "weights", "device", "workers", "resume", "overwrite"} & written["training"].keys()
    older = written | {"training": vars(config.training)}
    for settings in (written, older):
        training = from_dict(Config, settings, "here").training
        assert (training.run, training.weights, training.device, training.resume) == ("", "", "auto", False)
        assert (training.workers, training.overwrite, training.precision) == (-1, False, "bf16")


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_prescribes_workers(variant: str) -> None:
    assert VARIANTS[variant].training.workers == -1
