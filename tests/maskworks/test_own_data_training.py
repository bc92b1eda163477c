"""--data on a command line: what is split off, which settings follow from the data, and what stops a training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import maskrcnn
import solov2
import yolact
from common.errors import UserError
from common.ops import masks as rle
from common.run.settings import Data, Images, Optimizer, Training
from maskworks import own_data, shapes
from maskworks.command_line.variants import configure
from maskworks.command_line.yaml_files import to_yaml
from maskworks.own_data import checks, coco_files, fitting, splits
from maskworks.own_data.tiles import Tiling
from tests.maskworks.own_data_formats import HEIGHT, WIDTH, labelme, picture, pictures, save, text
from tests.running import evaluation, run
from yolact.train import configured as yolact_configured

SMALL = fitting.Measures(pictures=80, objects=2000, long_side=256, aspect=1.0, small=0.04, most=90, usual=60)


def named(*names: str) -> coco_files.Part:
    images = [{"id": at, "file_name": name, "height": 9, "width": 9} for at, name in enumerate(names, start=1)]
    objects = [{"id": at, "image_id": at, "category_id": 1} for at in range(1, len(names) + 1)]
    return coco_files.Part(Path(), None, {"images": images, "annotations": objects, "categories": []})


def split_names(names: list[str], fraction: float = 0.2, group_by: str = "") -> tuple[set[str], set[str]]:
    train, val = (part.content() for part in splits.split(named(*names), fraction, group_by))
    for part in (train, val):
        assert {entry["image_id"] for entry in part["annotations"]} == {entry["id"] for entry in part["images"]}
    return tuple({entry["file_name"] for entry in part["images"]} for part in (train, val))  # type: ignore[return-value]


def test_a_fifth_is_split_off_and_stays_when_pictures_are_added() -> None:
    names = [f"{number}.png" for number in range(500)]
    train, val = split_names(names)
    assert not train & val
    assert train | val == set(names)
    assert 70 < len(val) < 130
    more_train, more_val = split_names([*names, *(f"new {number}.png" for number in range(500))])
    assert train < more_train
    assert val < more_val
    assert 130 < len(split_names(names, 0.4)[1]) < 270


def test_pictures_of_a_group_stay_together() -> None:
    names = [f"film{film}_{frame}.png" for film in range(40) for frame in range(5)]
    for pattern in (r"film\d+_", r"(film\d+)_\d", r"^film\d+"):
        train, val = split_names(names, group_by=pattern)
        assert not {name.split("_")[0] for name in train} & {name.split("_")[0] for name in val}
        assert val
    with pytest.raises(UserError, match=r"finds nothing in 'film0_0.png'"):
        split_names(names, group_by="video")
    with pytest.raises(UserError, match="not a regular expression"):
        split_names(names, group_by="(")
    with pytest.raises(UserError, match="finds one group"):
        split_names(names, group_by="film")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_both_sides_have_pictures_however_few_there_are(count: int) -> None:
    for start in range(20):
        assert all(split_names([f"{start + at}.png" for at in range(count)]))


def test_one_picture_and_senseless_parts_are_refused() -> None:
    with pytest.raises(UserError, match="one picture"):
        split_names(["a.png"])
    with pytest.raises(UserError, match="above 0 and below 1"):
        split_names(["a.png", "b.png"], fraction=1.0)


def configured(module: Any, *words: object) -> Any:
    return own_data.configured(module.VARIANTS, [str(word) for word in words])


def data_set(root: Path, count: int = 12) -> Path:
    """Pictures of 20 x 40 with a cat of 8 x 8 in each, in labelme's format; every picture another."""
    for number in range(count):
        picture(root / f"{number}.png", number)
        shape = {"label": "cat", "points": [[2, 1], [10, 9]], "shape_type": "rectangle"}
        text(root / f"{number}.json", json.dumps({"shapes": [shape], "imagePath": f"{number}.png"}))
    return root


@pytest.mark.parametrize("module", [solov2, yolact, maskrcnn])
def test_without_a_variant_the_small_one_is_fitted_and_what_the_user_says_stands(tmp_path: Path, module: Any) -> None:
    config = configured(module, "--data", data_set(tmp_path / "own"), "--batch-size", 4, "--test.max-instances", 7)
    assert config.variant == "small"
    assert config.test.max_instances == 7
    assert (config.training.steps, config.schedule.warmup, config.schedule.name) == (4002, 200, "cosine")
    assert config.optimizer.lr == pytest.approx(1e-3 * 0.5**0.5, rel=1e-3)
    assert config.data.path == ""
    again = configure(module.VARIANTS, ["--config", str(text(tmp_path / "config.yaml", to_yaml(config)))])
    assert again == config  # what --resume and --config read says it all


def test_the_rules_of_fitting() -> None:
    assert SMALL.input_side == 288  # 12 pixels / 0.04 = 300, to a multiple of 32
    settings = fitting.fitted(SMALL)
    assert settings["model.grids"] == [48, 43, 29, 19, 14]
    assert settings["model.scale_ranges"] == [(1.0, 24.0), (12.0, 48.0), (24.0, 96.0), (48.0, 192.0), (96.0, 1152.0)]
    assert settings["proposals.anchor_sizes"] == [12, 24, 48, 96, 192]
    assert settings["test.max_instances"] == 150
    assert (settings["proposals.kept"], settings["proposals.training_kept"]) == (180, 150)
    assert settings["regions.samples"] == 120  # of the fullest picture 180: every step would pay for it
    large = fitting.Measures(pictures=80, objects=100, long_side=4000, aspect=0.75, small=0.5, most=3, usual=2)
    assert (large.input_side, fitting.fitted(large)["test.max_instances"]) == (256, 100)
    tiny = fitting.Measures(pictures=80, objects=100, long_side=4000, aspect=0.75, small=0.001, most=3, usual=2)
    assert tiny.input_side == 512


def test_answers_are_in_one_piece_where_nearly_all_objects_are(tmp_path: Path) -> None:
    whole, parts = np.zeros((2, HEIGHT, WIDTH), bool)
    whole[2:6, 2:6] = True
    parts[2:6, 2:6] = parts[8:10, 2:6] = True

    def of(*masks: Any) -> fitting.Measures:
        objects = [rle.encode(mask[None])[0] for mask in masks]
        objects += [[[1, 1, 5, 1, 5, 5]], {"size": [HEIGHT, WIDTH], "counts": [3, 2, HEIGHT * WIDTH - 5]}]
        entry = {"image_id": 1, "category_id": 1, "bbox": [2, 2, 4, 4], "area": 16, "iscrowd": 0}
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [entry | {"id": at, "segmentation": each} for at, each in enumerate(objects, start=1)],
        }
        file = text(tmp_path / "a.json", json.dumps(content))
        return fitting.Measures.of(checks.opened(Images([str(tmp_path)], [str(file)])))

    assert (of(whole).whole, of(whole, parts).whole, of(parts, parts).whole) == (1.0, 0.75, 0.5)
    assert fitting.fitted(of(whole))["test.largest_part"]
    assert not fitting.fitted(of(whole, parts))["test.largest_part"]


def test_settings_are_fitted_to_the_tiles_that_pictures_are_cut_into(tmp_path: Path) -> None:
    train, _ = sets(tmp_path, (["a"], [[("a", 5), ("a", 9)], [("a", 5)]]), (["a"], [[("a", 5)]]))
    whole = fitting.Measures.of(train)
    height, width = train.a.sizes[0].tolist()
    assert fitting.Measures.of(train, Tiling(max(height, width), 0)) == whole
    tile = max(height, width) // 2
    cut = fitting.Measures.of(train, Tiling(tile, 0))
    windows = Tiling(tile, 0).windows(height, width)
    assert (cut.pictures, cut.objects, cut.long_side) == (2 * len(windows), 3, tile)
    assert cut.small == pytest.approx(whole.small * whole.long_side / tile)
    centres = train.a.boxes[:, :2] + train.a.boxes[:, 2:] / 2
    inside = [
        sum(w.left <= x < w.right and w.top <= y < w.bottom for x, y in centres[train.a.image_index == picture])
        for picture in (0, 1)
        for w in windows
    ]
    assert (cut.most, cut.usual) == (max(inside), int(np.quantile(inside, 0.9)))


def test_pictures_that_are_larger_than_usual_are_cut_where_their_things_are_small(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Eight pictures of 100 pixels and two of 300, with so large a thing in each."""
    for side in (40, 60):
        sizes = [100] * 8 + [300] * 2
        for at, size in enumerate(sizes, start=1):
            save(tmp_path / f"{side}/{at}.png", np.full((size, size), at, np.uint8))
        thing = {"category_id": 1, "bbox": [0, 0, side, side], "area": side * side, "iscrowd": 0}
        thing["segmentation"] = [[0, 0, side, 0, side, side, 0, side]]
        content = {
            "images": [{"id": at, "file_name": f"{at}.png", "height": n, "width": n} for at, n in enumerate(sizes, 1)],
            "categories": [{"id": 1, "name": "thing"}],
            "annotations": [thing | {"id": at, "image_id": at} for at in range(1, 11)],
        }
        file = text(tmp_path / f"{side}/annotations.json", json.dumps(content))
        words = ["--data", file, "--data.val-fraction", "0.01"]
        data = configured(solov2, *words).data
        said = "pictures above 96 pixels a side are cut" in capsys.readouterr().out
        assert (data.tile, data.overlap, said) == ((96, 24, True) if side == 40 else (0, Data().overlap, False))
        assert configured(solov2, *words, "--data.tile", "0").data.tile == 0
        assert configured(solov2, *words, "--data.tile", "128", "--data.overlap", "32").data.tile == 128
        assert configured(solov2, "light_r18_448", *words, "--data.check", "say").data.tile == 0


def test_every_fitted_setting_is_one_of_some_package() -> None:
    variants = [module.VARIANTS["small"] for module in (solov2, yolact, maskrcnn)]
    for name in fitting.fitted(SMALL):
        section, _, setting = name.partition(".")
        assert any(hasattr(getattr(config, section, None), setting) for config in variants), name


def test_the_recipe_follows_from_pictures_objects_and_batches() -> None:
    published = Training(batch_size=16)

    def recipe(**asked: Any) -> dict[str, Any]:
        optimizer = Optimizer(name=asked.pop("name", "sgd"), lr=0.01)
        return fitting.finetune(SMALL, Training(**({"batch_size": 16} | asked)), published, optimizer)

    assert recipe()["steps"] == (1000 + 2000 / 20) * 2 * 8 / 16
    assert recipe(weights="some.pth")["steps"] == 550
    assert recipe(batch_size=8)["steps"] == 2200
    assert recipe(batch_size=4)["optimizer.lr"] == 0.0025
    assert recipe(batch_size=4, name="adamw")["optimizer.lr"] == 0.005
    assert (recipe(steps=200)["steps"], recipe(steps=200)["schedule.warmup"]) == (200, 10)
    assert recipe(epochs=30)["steps"] == 150
    assert recipe(epochs=30)["evaluate_every"] == 3


def test_a_named_variant_stays_as_published_if_that_recipe_is_asked_for(tmp_path: Path) -> None:
    data = data_set(tmp_path / "own")
    published = solov2.VARIANTS["light_r18_448"]
    config = configured(solov2, "light_r18_448", "--data", data, "--recipe", "published", "--data.check", "say")
    assert (config.training, config.optimizer, config.schedule) == (
        published.training,
        published.optimizer,
        published.schedule,
    )
    assert config.test == published.test


def test_yolact_s_own_scaling_of_its_recipe_is_not_repeated(tmp_path: Path) -> None:
    words = ["resnet50_550", "--data", str(data_set(tmp_path / "own")), "--batch-size", "4", "--data.check", "say"]
    config = yolact_configured(words)
    assert config.optimizer.lr == yolact.VARIANTS["resnet50_550"].optimizer.lr * 4 / 8
    assert (config.training.steps, config.schedule.name) == (4002, "cosine")


def test_a_path_and_files_exclude_each_other_and_recipes_need_a_path(tmp_path: Path) -> None:
    data = data_set(tmp_path / "own")
    with pytest.raises(UserError, match=r"so does --data.train.images"):
        configured(solov2, "--data", data, "--data.train.images", "a")
    for words in (["--recipe", "finetune"], ["--data.val-fraction", "0.3"], ["--data.rectangles"]):
        with pytest.raises(UserError, match=f"{words[0]} is for own data"):
            configured(solov2, *words)
    with pytest.raises(UserError, match="has validation data of its own"):
        labelme(tmp_path / "both/train"), labelme(tmp_path / "both/val")
        configured(solov2, "--data", tmp_path / "both", "--data.group-by", "a")
    with pytest.raises(UserError, match="--data needs a variant here"):
        own_data.configured({"other": solov2.VARIANTS["small"]}, ["--data", str(data)])


def test_saliency_has_no_path() -> None:
    with pytest.raises(UserError, match=r"not for saliency.* here say where the files are: --data.train.images"):
        shapes.fill_in(Data(path="photographs"), "train")


def test_evaluation_takes_the_same_pictures_as_training(tmp_path: Path) -> None:
    data = data_set(tmp_path / "own")
    config = configured(solov2, "--data", data)
    assert own_data.located(Data(path=str(data))).val == config.data.val
    assert own_data.located(config.data) == config.data


def sets(root: Path, train: Any, val: Any) -> tuple[checks.Set, checks.Set]:
    """Two data sets: lists of (class, box side) for each picture; classes a and b."""
    opened = []
    for name, content in (("train", train), ("val", val)):
        classes, rows = content
        pictures_of = [
            {"id": at, "file_name": f"{at}.png", "height": HEIGHT, "width": WIDTH} for at in range(len(rows))
        ]
        flat = [(at, label, side) for at, row in enumerate(rows) for label, side in row]
        objects = [
            {"id": number, "image_id": at, "category_id": classes.index(label) + 1, "bbox": [0, 0, side, side]}
            | {"area": side**2, "segmentation": [[0, 0, side, 0, side, side, 0, side]]}
            for number, (at, label, side) in enumerate(flat, start=1)
        ]
        categories = [{"id": at, "name": label} for at, label in enumerate(classes, start=1)]
        for at in range(len(rows)):
            save(root / f"{name}/{at}.png", np.full((HEIGHT, WIDTH), (name == "val") * 100 + at, np.uint8))
        file = text(
            root / f"{name}.json", json.dumps({"images": pictures_of, "annotations": objects, "categories": categories})
        )
        opened.append(checks.opened(Images([str(root / name)], [str(file)])))
    return opened[0], opened[1]


def test_sound_data_pass(tmp_path: Path) -> None:
    one = (["a", "b"], [[("a", 5), ("b", 9)], [("a", 4)]])
    assert checks.wasted(*sets(tmp_path, one, one)) == []


def test_what_would_waste_a_training_is_named(tmp_path: Path) -> None:
    both, one = (["a", "b"], [[("a", 5), ("b", 9)]]), (["a", "b"], [[("a", 5)]])
    (line,) = checks.wasted(*sets(tmp_path, one, both))
    assert line.startswith("no object to learn from: of b")
    (line,) = checks.wasted(*sets(tmp_path, both, (["b", "a"], [[("a", 5)]])))
    assert line.startswith("the classes are not the same in the same order: ['a', 'b'] to train, ['b', 'a']")
    (line,) = checks.wasted(*sets(tmp_path, both, (["a", "b"], [[]])))
    assert line.startswith("the validation pictures have no object")
    train, val = sets(tmp_path, both, both)
    (tmp_path / "val/0.png").write_bytes((tmp_path / "train/0.png").read_bytes())
    (line,) = checks.wasted(train, val)
    assert line.startswith("pictures that train and validate: 0.png (as 0.png)")


def test_objects_that_vanish_at_the_network_s_size_are_counted_for_each_class(tmp_path: Path) -> None:
    train, _ = sets(tmp_path, (["a", "b"], [[("a", 5), ("a", 9)], [("a", 5), ("b", 16)]]), (["a"], [[("a", 5)]]))
    assert checks.too_small(train, np.array([1.0, 2.0])) == {"a": pytest.approx(1 / 3), "b": 0.0}


def test_faults_stop_a_training_unless_they_shall_only_be_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_set(tmp_path / "own")
    for number in range(12):
        picture(data / f"{number}.png", 0)  # all the same
    with pytest.raises(
        UserError, match=r"pictures that train and validate: .* \| --data.check say trains all the same"
    ):
        configured(solov2, "--data", data)
    assert configured(solov2, "--data", data, "--data.check", "say").variant == "small"
    assert "note: pictures that train and validate" in capsys.readouterr().out


def test_boxes_alone_are_no_data_for_masks(tmp_path: Path) -> None:
    pictures(tmp_path / "own")
    rows = [{"file_name": f"{name}.png", "objects": {"bbox": [[1, 1, 9, 9]], "category": [0]}} for name in "ab"]
    text(tmp_path / "own/metadata.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"take boxes for masks: --data.rectangles"):
        configured(solov2, "--data", tmp_path / "own")
    assert configured(solov2, "--data", tmp_path / "own", "--data.rectangles").variant == "small"


def test_the_plan_is_printed_and_by_one_process_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_set(tmp_path / "own")
    configured(solov2, "--data", data, "--steps", 40)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"--data {data}: taken for labelme's JSON files; 0.2 of the pictures validate")
    assert said[2].startswith("fitted to them: --test.long_side 256 ")
    assert said[3].startswith(
        "plan: 40 steps of 2 pictures, 10 epochs; learning rate 0.0005 after 2 steps, then cosine;"
    )
    monkeypatch.setenv("RANK", "1")
    configured(solov2, "--data", data, "--steps", 40)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("package", ["solov2", "refinemask_psg"])
def test_the_commands_train_on_a_folder_and_score_the_pictures_that_were_not_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data_set(tmp_path / "own")
    variant = [] if package == "solov2" else ["shapes", "--data.check", "say"]
    quick = ["--steps", 1, "--batch-size", 2, "--workers", 0, "--no-report", "--run", "run"]
    run(f"{package}/train.py", *variant, "--data", "own", *quick, cwd=tmp_path)
    train, val = ((tmp_path / f"run/{name}.txt").read_text().split() for name in ("train", "val"))
    assert not {*train} & {*val}
    assert {Path(line).name for line in train + val} == {f"{number}.png" for number in range(12)}
    weights = ["--weights", "run/best.safetensors", "--workers", 0]
    done = run(f"{package}/eval.py", "--data", "own", *weights, cwd=tmp_path)
    scored = json.loads((evaluation(done.stdout, tmp_path) / "metrics.json").read_text())
    assert scored == json.loads((tmp_path / "run/metrics.json").read_text())


def test_without_a_gpu_steps_are_of_few_pictures_unless_the_user_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_set(tmp_path / "own")
    few, eight = configured(solov2, "--data", data), configured(solov2, "--data", data, "--batch-size", 8)
    assert (few.training.batch_size, eight.training.batch_size) == (2, 8)
    assert few.training.steps == pytest.approx(4 * eight.training.steps, abs=4)  # as many pictures
    assert few.optimizer.lr == eight.optimizer.lr / 2
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert configured(solov2, "--data", data).training.batch_size == 4
    monkeypatch.setattr(fitting, "choose_device", lambda name: torch.device("cuda"))
    assert configured(solov2, "--data", data).training.batch_size == 8
