"""The packages that find instances learn from tiles, and answer in them."""

import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.batches import collate
from common.data.coco import CocoDataset
from common.data.loader import TrainingSet
from maskrcnn.augmentation import training_transforms as maskrcnn_transforms
from maskworks import own_data, shapes
from maskworks.command_line.variants import configure
from maskworks.commands.runs import INSTANCES, open_dataset
from maskworks.own_data.tiles import TiledDataset
from maskworks.packages import NETWORKS
from solov2.augmentation import training_transforms as solov2_transforms
from tests.small import SMALL
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
