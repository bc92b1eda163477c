"""Augmentation by name: what windows and pasted objects leave of a picture, and that all follows from the seed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

import solov2
import yolact
from common.data.batches import UNLABELLED, collate
from common.data.coco import CocoDataset, Sample
from common.data.loader import TrainingSet, training_loader
from common.errors import UserError
from common.run.callbacks import Run
from maskworks import commands, own_data, shapes
from maskworks.command_line.variants import configure
from maskworks.own_data import augmentation, fitting
from maskworks.own_data.tiles import Window
from tests.maskworks.own_data_formats import text
from tests.maskworks.test_own_data_training import SMALL as MEASURES
from tests.maskworks.test_own_data_training import data_set
from tests.running import call
from tests.small import SMALL, flags, package_of


def sample(*masks: tuple[slice, slice], height: int = 20, width: int = 30, **more: Any) -> Sample:
    """A random picture whose objects are rectangles."""
    random = np.random.default_rng(0)
    drawn = np.zeros((len(masks), height, width), bool)
    for mask, place in zip(drawn, masks, strict=True):
        mask[place] = True
    boxes = np.array([(c.start, r.start, c.stop, r.stop) for r, c in masks], np.float32).reshape(-1, 4)
    image = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels, crowd = np.arange(len(masks)), np.zeros(len(masks), bool)
    return replace(Sample(image, boxes, labels, drawn, crowd, None, 1, Path("a.png")), **more)


def boxes_of(masks: np.ndarray) -> list[list[int]]:
    places = [np.argwhere(mask) for mask in masks]
    return [[*each.min(axis=0)[::-1].tolist(), *(each.max(axis=0)[::-1] + 1).tolist()] for each in places]


def test_a_window_cuts_masks_boxes_and_what_belongs_to_them_and_drops_what_all_but_vanishes() -> None:
    inside, halved, lost = (slice(5, 9), slice(3, 8)), (slice(5, 15), slice(10, 20)), (slice(0, 5), slice(12, 30))
    semantic = np.arange(600, dtype=np.uint8).reshape(20, 30) % 9
    keypoints = np.full((3, 2, 3), 2.0, np.float32)
    keypoints[:, :, :2] = [[4, 6], [14, 8]]
    before = sample(inside, halved, lost, semantic=semantic, keypoints=keypoints)
    outlines = [[np.array([[4, 5], [8, 5], [8, 9]], np.float32)], [], []]
    after, moved = augmentation.framed(before, outlines, Window(4, -2, 24, 14))
    assert after.labels.tolist() == [0, 1]  # of the last one 1 x 2 of 5 x 18 pixels are left
    expected = np.pad(before.masks[:2, 4:, :14], ((0, 0), (0, 4), (2, 0)))
    assert np.array_equal(after.masks, expected)
    assert after.boxes.tolist() == boxes_of(expected)
    assert np.array_equal(after.image[:16, 2:], before.image[4:, :14])
    assert (after.image[17:] == before.image.mean(axis=(0, 1)).astype(np.uint8)).all()
    assert after.semantic is not None and after.keypoints is not None and moved is not None
    assert np.array_equal(after.semantic, np.pad(semantic[4:, :14], ((0, 4), (2, 0)), constant_values=UNLABELLED))
    assert after.keypoints[0].tolist() == [[6, 2, 2], [0, 0, 0]]
    assert moved[0][0].tolist() == [[6, 1], [10, 1], [10, 5]]
    assert len(moved) == 2


def test_boxes_without_masks_are_cut_too_and_who_shows_no_joint_falls_off() -> None:
    boxes = np.array([[2, 2, 10, 10], [20, 2, 30, 12]], np.float32)
    keypoints = np.array([[[3, 3, 2]], [[25, 5, 2]]], np.float32)
    alone = sample(height=20, width=30, boxes=boxes, labels=np.arange(2), crowd=np.zeros(2, bool))
    alone = replace(alone, masks=np.zeros((2, 20, 30), bool))
    after, _ = augmentation.framed(alone, None, Window(0, 6, 20, 24))
    assert after.boxes.tolist() == [[0, 2, 4, 10]]  # of the other one 40 of 100 pixels are seen
    after, _ = augmentation.framed(alone, None, Window(2, 0, 12, 21))
    assert after.labels.tolist() == [0]
    after, _ = augmentation.framed(alone, None, Window(2, 20, 6, 26))  # 24 of 100, and all of the window
    assert after.boxes.tolist() == [[0, 0, 6, 4]]
    after, _ = augmentation.framed(replace(alone, keypoints=keypoints), None, Window(0, 6, 20, 24))
    assert after.labels.tolist() == []


def test_pasted_objects_hide_what_they_lie_on() -> None:
    other = sample((slice(2, 8), slice(2, 8)), (slice(10, 16), slice(12, 20)))
    other = replace(other, image=255 - other.image, labels=np.array([7, 8]), semantic=np.full((20, 30), 7, np.uint8))
    under = sample((slice(0, 20), slice(0, 15)), (slice(3, 7), slice(3, 7)), semantic=np.zeros((20, 30), np.uint8))
    outlines = [[np.zeros((3, 2), np.float32)] for _ in range(2)]
    torch.manual_seed(next(seed for seed in range(99) if both_chosen(seed)))
    after, drawn = augmentation.with_pasted(under, outlines, other)
    assert after.labels.tolist() == [0, 7, 8]  # the small one is hidden
    hidden = other.masks.any(axis=0)
    assert np.array_equal(after.masks[0], under.masks[0] & ~hidden)
    assert np.array_equal(after.masks[1:], other.masks)
    assert after.boxes.tolist() == boxes_of(after.masks)
    assert np.array_equal(after.image, np.where(hidden[..., None], other.image, under.image))
    assert after.semantic is not None
    assert np.array_equal(after.semantic, np.where(hidden, 7, 0))
    assert drawn == [[], [], []]  # nobody drew what is left


def both_chosen(seed: int) -> bool:
    """Of a picture of the same size two numbers say where it lies, the next two which of its objects are taken."""
    torch.manual_seed(seed)
    return bool((torch.rand(4)[2:] < 0.5).all())


def made(folder: Path) -> CocoDataset:
    found = shapes.ensure("val", seed=3, count=6, cache=folder)
    return CocoDataset([found.images], [found.instances])


def seen(name: str, dataset: CocoDataset, seed: int = 0) -> TrainingSet:
    words = ["--data.augment", name, "--seed", str(seed)]
    return own_data.training_set(dataset, v2.Identity(), configure(solov2.VARIANTS, words))


def test_pictures_follow_from_seed_epoch_and_index_for_any_number_of_workers(tmp_path: Path) -> None:
    items: Any = seen("strong", dataset := made(tmp_path))
    keys: Any = [[(epoch, index)] for epoch in (0, 1) for index in range(6)]
    first = {key[0]: items[key[0]] for key in reversed(keys)}
    torch.manual_seed(5)  # which nothing may depend on
    loader: Any = training_loader(items, keys, 1, 2, pin_memory=False)
    for key, batch in zip(keys, loader, strict=True):
        image, target = first[key[0]]
        assert torch.equal(batch.images[0], image)
        assert torch.equal(batch.targets[0].masks, target.masks)
    other: Any = seen("strong", dataset, seed=1)
    assert not torch.equal(first[0, 0][0], first[1, 0][0])
    assert not torch.equal(first[0, 0][0], other[0, 0][0])


def test_published_changes_nothing_and_strong_adds_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = made(tmp_path)
    plain: Any = TrainingSet(dataset, v2.Identity(), 0)
    published: Any = seen("published", dataset)
    strong: Any = seen("strong", dataset)
    for index in range(6):
        (image, target), (same, like) = plain[0, index], published[0, index]
        assert torch.equal(image, same)
        assert torch.equal(target.masks, like.masks)
    keys = [(epoch, index) for epoch in range(4) for index in range(6)]
    assert any(len(strong[key][1].labels) > len(plain[key][1].labels) for key in keys)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "augmentation: strong: windows of 0.4 to 1.5 times the picture's sides, copy-paste in 50%"
    )


def test_a_broken_picture_to_paste_from_is_one_line(tmp_path: Path) -> None:
    dataset = made(tmp_path)
    for number in range(1, 6):
        dataset.path(number).write_bytes(b"")
    items = seen("strong", dataset)
    assert any(isinstance(items[epoch, 0], UserError) for epoch in range(20))


@pytest.mark.parametrize("name", SMALL)
def test_every_package_learns_from_the_strongest_and_says_what_it_leaves_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(commands, "train", lambda *given, **_: kept.extend(given) or Run(tmp_path, False))
    words = ["--augment", "strong", "--device", "cpu", "--batch-size", 2]
    call(f"{package_of(name)}.train", *flags(name, tmp_path), *words)
    model, items, divisor = kept[2], kept[4], kept[6]
    total = sum(model.losses(collate([items[0, index] for index in range(2)], divisor)).values())
    total.backward()
    assert torch.isfinite(total)
    said = capsys.readouterr().out
    assert ("without windows" in said) == (name in {"psg", "u2net"})
    assert ("copy-paste: " in said) == (name in {"psg", "u2net", "glip", "pose2seg"})
    assert ("nothing is mirrored" in said) == (name == "glip")


def test_own_pictures_that_are_seen_often_are_augmented_lightly_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    small = yolact.VARIANTS["small"]

    def recipe(epochs: int) -> Any:
        asked = replace(small.training, epochs=epochs)
        return fitting.finetune(MEASURES, asked, small.training, small.optimizer)["data.augment"]

    assert [recipe(small.training.epochs), recipe(20), recipe(21)] == ["light", "published", "light"]
    data = ["--data", str(data_set(tmp_path / "own"))]

    def chosen(*words: str) -> Any:
        return own_data.configured(yolact.VARIANTS, [*data, *words])

    config = chosen("--augment.expand", "2")
    assert (config.data.augment, config.augment.expand, config.augment.photometric) == ("light", 2.0, False)
    assert chosen("--augment", "published").augment == small.augment
    file = text(tmp_path / "a.yaml", json.dumps({"data": {"augment": "strong"}}))
    assert own_data.configured(yolact.VARIANTS, ["shapes", "--config", str(file)]).augment.crop == 0
