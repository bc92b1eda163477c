"""The commands as a newcomer types them: train, evaluate, draw, measure, predict, convert, export."""

import json
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

import yolact
from common.data.images import read_frames
from common.errors import UserError
from maskworks import shapes
from maskworks.command_line.yaml_files import to_yaml
from tests import small
from tests.running import call, evaluation, make_photographs, run, small_data
from tests.small import trained
from tests.yolact.test_convert import published_by_dbolya
from yolact.eval import write_result_files
from yolact.train import configured, iteration_of

SMALL = shlex.split(small.SMALL["yolact"][2] + " --test.score-threshold 0.01")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return trained("yolact", tmp_path_factory.mktemp("work"), *SMALL)


def test_training_writes_a_report_and_its_scores(weights):
    assert yolact.load(weights).class_names[0] == "person"
    assert (weights.parent / "report.html").exists()
    assert json.loads((weights.parent / "metrics.json").read_text()).keys() == {"segm", "bbox"}


def test_eval_without_arguments_scores_the_default_run(folder, weights):
    trained = json.loads((weights.parent / "metrics.json").read_text())
    done = run("yolact/eval.py", "--workers", "0", cwd=folder)
    written = evaluation(done.stdout, folder)
    scored = json.loads((written / "metrics.json").read_text())
    assert scored.keys() == trained.keys()
    assert all(scored[kind] == pytest.approx(trained[kind]) for kind in trained)
    boxes, masks = (json.loads((written / f"{kind}_detections.json").read_text()) for kind in ("bbox", "mask"))
    assert len(boxes) == len(masks) > 0
    assert set(boxes[0]) == {"image_id", "category_id", "bbox", "score"}
    assert set(masks[0]) == {"image_id", "category_id", "segmentation", "score"}
    assert all(width > 0 and height > 0 for _, _, width, height in (entry["bbox"] for entry in boxes))


def test_result_files_have_the_boxes_and_the_masks_own_scores(tmp_path):
    entry = {"image_id": 1, "category_id": 2, "bbox": [0.04, 1.0, 2.0, 3.0], "segmentation": {}, "score": 0.9}
    (tmp_path / "predictions.json").write_text(json.dumps([entry | {"mask_score": 0.6}]))
    write_result_files(tmp_path)
    boxes, masks = (json.loads((tmp_path / f"{kind}_detections.json").read_text()) for kind in ("bbox", "mask"))
    assert (boxes[0]["score"], boxes[0]["bbox"][0]) == (0.9, 0.0)
    assert masks[0]["score"] == 0.6


def test_eval_draws_a_photograph_a_folder_and_a_video(weights, tmp_path):
    make_photographs(tmp_path / "in")
    flags = ["--weights", weights, "--score-threshold", "0", "--top-k", "5", "--device", "cpu"]
    for argument in (["in/good.jpg:out/one.png"], ["in/good.jpg", "out/two.png"]):
        run("yolact/eval.py", "--image", *argument, *flags, cwd=tmp_path)
    assert Image.open(tmp_path / "out" / "one.png").size == (80, 60)
    assert (tmp_path / "out" / "one.png").read_bytes() == (tmp_path / "out" / "two.png").read_bytes()
    done = run("yolact/eval.py", "--images=in:out/all", *flags, cwd=tmp_path)
    assert "5 of 7 photographs written" in done.stdout
    assert Image.open(tmp_path / "out" / "all" / "deep" / "cmyk.jpg").size == (80, 60)
    run("yolact/eval.py", "--video", "in/film.mp4:out/film.mp4", *flags, "--batch-size", "2", cwd=tmp_path)
    frames = list(read_frames(tmp_path / "out" / "film.mp4"))
    assert len(frames) == 3
    assert frames[0][:6, :40].mean() < 60 < frames[0][30:].mean()  # the speed's black ground


def test_eval_measures_every_stage(weights, tmp_path):
    make_photographs(tmp_path / "in")
    flags = ["--weights", weights, "--photographs", "in/good.jpg", "in/grey.jpg", "--device", "cpu"]
    done = run("yolact/eval.py", "--benchmark", *flags, cwd=tmp_path)
    rows = {line.split("│")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("│")}
    assert set(rows) == {"prepare", "network", "post-process", "total"}
    assert "99% within" in done.stdout
    assert "2 photographs one at a time, cpu, fp32" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--image", "a.jpg:"], "IN:OUT"),
        (["--image", "a.jpg:./a.jpg"], "over what is read"),
        (["--images", "nowhere:out"], "no such folder"),
        (["--video", "nowhere.mp4:out.mp4"], "no such video"),
    ],
)
def test_eval_says_what_it_wants(weights, tmp_path, flags, words):
    done = run("yolact/eval.py", *flags, "--weights", weights, cwd=tmp_path, status=2)
    assert done.stderr.startswith("error: ")
    assert words in done.stderr


def test_training_goes_on_from_other_classes_published_files_and_backbones(folder, weights, tmp_path):
    made = shapes.ensure("train", seed=5, count=6, cache=folder)
    content = json.loads(made.instances.read_text())
    content["categories"][0]["name"] = "gnome"
    (tmp_path / "other.json").write_text(json.dumps(content))
    data = []
    for split in ("train", "val"):
        data += [f"--data.{split}.images", made.images, f"--data.{split}.annotations", tmp_path / "other.json"]
    flags = [*SMALL, "--steps", "1", "--batch-size", "2", "--workers", "0", "--no-report", *data]
    done = run("yolact/train.py", *flags, "--weights", weights, cwd=tmp_path)
    assert "the class layers start anew" in done.stderr
    model = yolact.load(weights, trainable=True)
    torch.save({published_by_dbolya(n): v for n, v in model.state_dict().items()}, tmp_path / "published.pth")
    run("yolact/train.py", *flags, "--weights", "published.pth", cwd=tmp_path)
    torch.save(model.backbone.state_dict() | {"fc.weight": torch.zeros(10, 512)}, tmp_path / "body.pth")
    run("yolact/train.py", *flags, "--weights", "body.pth", cwd=tmp_path)


def test_the_recipe_follows_the_batch_size_and_what_is_given_by_hand_does_not(tmp_path):
    config = configured(["resnet50_550", "--batch-size", "16"])
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    (tmp_path / "own.yaml").write_text("optimizer: {lr: 0.001}\nbatch_size: 16\n")
    saved, own = (configured(["resnet50_550", "--config", str(tmp_path / name)]) for name in ("saved.yaml", "own.yaml"))
    for each in (config, saved):
        assert each.training.steps == 400_000
        assert each.optimizer.lr == pytest.approx(2e-3)
        assert each.schedule.milestones == [140_000, 300_000, 350_000, 375_000]
    assert (own.optimizer.lr, own.training.steps) == (1e-3, 400_000)  # the recipe's own rate, but named
    by_hand = configured(["base", "--batch-size", "2", "--steps", "2", "--optimizer.lr", "0.001"])
    assert (by_hand.training.steps, by_hand.optimizer.lr) == (2, 1e-3)
    assert by_hand.schedule.milestones[0] == 1_120_000
    assert configured(["base", "--batch-size", "4", "--recipe-batch-size", "0"]).training.steps == 800_000


def test_training_goes_on_where_an_originals_file_says(weights, folder, tmp_path, monkeypatch, capsys):
    model = yolact.load(weights, trainable=True)
    torch.save({published_by_dbolya(n): v for n, v in model.state_dict().items()}, tmp_path / "yolact_base_10_321.pth")
    data = [str(word) for word in small_data(folder)]
    line = shlex.split("--workers 0 --batch-size 2 --steps 322 --device cpu --optimizer.lr 0.01")
    line += [*SMALL, *data, *shlex.split("--schedule.name step --schedule.milestones 100 --schedule.unit steps")]
    monkeypatch.chdir(tmp_path)
    call("yolact.train", *line, "--weights", "yolact_base_10_321.pth", "--start-step", -1)
    log = [json.loads(entry) for entry in (tmp_path / "runs/yolact/shapes/log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "lr" in entry] == [322]
    assert log[0]["lr"] == pytest.approx(0.001)  # the milestone is behind it, the warm-up too
    assert "goes on at step 321 (epoch 107) of 322; weights hold no state of an optimizer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("yolact_base_10_32100.pth", 32100),
        ("w/yolact_im700_54_800000.pth", 800000),
        ("b_1_22_interrupt.pth", 22),
        ("x_5.pth", None),
    ],
)
def test_the_iteration_is_in_the_originals_file_names(name, step):
    if step is None:
        with pytest.raises(UserError, match="epoch and iteration"):
            iteration_of(name)
    else:
        assert iteration_of(name) == step


def test_a_drawing_without_a_place_goes_beside_what_was_read_and_over_nothing(weights, tmp_path, monkeypatch, capsys):
    make_photographs(tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "in").rglob("*") if path.is_file()}
    for words in (["--image=in/good.jpg"], ["--image", "in/good.jpg"], ["--video=in/film.mp4"], ["--images=in/deep"]):
        call("yolact.eval", *words, "--weights", weights, "--device", "cpu")
    said = capsys.readouterr().out
    for name in ("good_found.png", "good_found-1.png", "film_found.mp4", "deep_found"):
        assert (tmp_path / "in" / name).exists()
        assert str(tmp_path / "in" / name) in said
    assert all(path.read_bytes() == content for path, content in before.items())
