"""The packages that find instances learn from tiles, and answer in them."""

import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import maskworks
from common.data.batches import collate
from common.data.coco import CocoDataset
from common.data.loader import TrainingSet
from common.run.checkpoint import Checkpoint, save
from common.run.configuration import to_dict
from maskrcnn.augmentation import training_transforms as maskrcnn_transforms
from maskworks import own_data, shapes
from maskworks.command_line.variants import configure
from maskworks.commands.runs import INSTANCES, open_dataset
from maskworks.own_data.tile_joining import in_tiles
from maskworks.own_data.tiles import TiledDataset, Tiling
from maskworks.packages import NETWORKS
from solov2.augmentation import training_transforms as solov2_transforms
from tests.small import SMALL
from tests.tiny import photograph, tiny
from yolact.augmentation import SSDAugmentation

TRANSFORMS: dict[str, Any] = {
    "solov2": lambda config: solov2_transforms(config.augment),
    "yolact": SSDAugmentation,
    "maskrcnn": lambda config: maskrcnn_transforms(config.augment, config.conventions),
}


@pytest.mark.parametrize("package", TRANSFORMS)
def test_a_step_on_tiles_and_an_evaluation_in_them(package: str, tmp_path: Path) -> None:
    made = shapes.ensure("val", seed=5, count=2, cache=tmp_path)
    module = import_module(package)
    files = f"--data.{{0}}.images {made.images} --data.{{0}}.annotations {made.instances}"
    words = f"{SMALL[package][2]} --data.tile 96 --data.overlap 32 {files.format('train')} {files.format('val')}"
    config: Any = configure(module.VARIANTS, shlex.split(words))
    tiles = own_data.cut(open_dataset(config.data, "train", config.training), config.data)
    whole = open_dataset(config.data, "val", config.training)
    assert isinstance(tiles, TiledDataset)
    assert isinstance(whole, CocoDataset)
    assert len(tiles) > len(whole)
    torch.manual_seed(0)
    model = getattr(module, NETWORKS[package])(config, tiles.class_names)
    polygons = package == "maskrcnn" and config.conventions.mask_targets == "polygons"
    items = TrainingSet(tiles, TRANSFORMS[package](config), 0, polygons)
    full = [index for index in range(len(tiles)) if len(tiles[index].labels)][:3]
    losses = model.losses(collate([items[0, index] for index in full], 32))  # type: ignore[misc]
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    model.config.test.score_threshold = 0.0
    if package == "solov2":
        model.config.test.update_threshold = 0.0
    detections = own_data.scored_in_tiles(INSTANCES).evaluate(model.eval(), whole, 2, 0, limit=100).detections
    sizes = {int(identity): size for identity, size in zip(whole.image_ids, whole.sizes.tolist(), strict=True)}
    assert detections
    assert all(found["segmentation"]["size"] == sizes[found["image_id"]] for found in detections)


def test_in_python_too_a_model_that_learnt_from_tiles_cuts_what_is_larger(tmp_path: Path) -> None:
    config = tiny("solov2")
    config.data = replace(config.data, tile=64, overlap=16)
    torch.manual_seed(0)
    weights = import_module("solov2").SOLOv2(config, ("a", "b")).state_dict()
    content = Checkpoint("solov2", to_dict(config), ("a", "b"), (1, 2), weights)
    save(tmp_path / "model.safetensors", content)
    loaded = maskworks.load(tmp_path / "model.safetensors", device="cpu")
    large, small = photograph(100, 120), photograph(60, 60)
    found = loaded.predict(large)
    assert found.size == (100, 120)
    joined = in_tiles(loaded.model.predict, large, Tiling(64, 16))
    whole = loaded.model.predict(large)
    assert torch.equal(found.scores, joined.scores)
    assert found.scores.tolist() != whole.scores.tolist()
    Image.fromarray(small).save(tmp_path / "small.png")
    assert torch.equal(loaded.predict(tmp_path / "small.png").scores, loaded.model.predict(small).scores)
