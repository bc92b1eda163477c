"""RefineMask's cases on scenes of the built-in dataset, instead of on photographs."""

from typing import Any

import numpy as np
import torch

from common.data.batches import round_up
from common.data.images import fit_within, resize
from common.ops import masks as rle
from maskworks.shapes.scene_files import THING_IDS
from maskworks.shapes.scenes import Scene, draw_scene
from tests.parity.case import Array, Case

DIVISOR = 32


def on_scene(case: Case, seed: int, images: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """The entries for the spec, and the arrays."""
    scene = draw_scene(seed, "val", 0)
    if "p2" in case.inputs:
        return {}, features_and_classes(case, scene)
    entries: dict[str, Any] = {"image": {"meaning": "RGB, HWC; the original image"}}
    inputs: dict[str, Array] = {"image": scene.image}
    if "train_label" in case.inputs:
        foreground = np.any([thing.mask for thing in scene.things], axis=0).astype(np.uint8)
        label = case.inputs["train_label"]
        inputs["train_label"] = np.broadcast_to(foreground[:96, :96], label.shape).copy()
        entries["train_label"] = {"meaning": case.spec["inputs"]["train_tensor"]["meaning"]}
    if "gt_boxes" in case.inputs:
        scenes = {"": scene} | {str(number): draw_scene(seed, "train", number) for number in range(2, images + 1)}
        for number, each in scenes.items():
            add_ground_truth(case, each, number, entries, inputs)
    return entries, inputs


def add_ground_truth(case: Case, scene: Scene, number: str, entries: dict[str, Any], inputs: dict[str, Array]) -> None:
    """One image's, whose inputs' names end in a number."""
    scale = case.spec["settings"]["preprocess"]["img_scale_long_short"]
    truth = ground_truth(scene, max(scale), min(scale))
    masks = truth.pop("masks")
    inputs |= {f"{name}{number}": values for name, values in ({"image": scene.image} | truth).items()}
    if "gt_masks@bits" in case.inputs:
        inputs[f"gt_masks{number}@bits"] = np.packbits(masks.reshape(-1))
        entries[f"gt_masks{number}"] = {"shape": list(masks.shape)}
    else:
        entries[f"gt_polygons{number}"] = {"value": [[diamond(box)] for box in truth["gt_boxes"]]}


def ground_truth(scene: Scene, long_side: int, short_side: int) -> dict[str, Array]:
    """Boxes and labels, and masks as diamonds within the boxes, in the pixels of the network input."""
    height, width = scene.image.shape[:2]
    input_height, input_width = fit_within(height, width, long_side, short_side)
    names, boxes, labels = list(THING_IDS), [], []
    for thing in scene.things:
        rows, columns = np.nonzero(resize(thing.mask.astype(np.uint8), input_height, input_width))
        if len(rows) and not thing.crowd:
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(names.index(thing.name))
    size = round_up(input_height, DIVISOR), round_up(input_width, DIVISOR)
    found = np.array(boxes, np.float32).reshape(-1, 4)
    masks = rle.decode([rle.from_polygons([diamond(box)], *size) for box in found])
    return {"gt_boxes": found, "gt_labels": np.array(labels, np.int64), "masks": masks}


def diamond(box: Array) -> list[float]:
    x, y, right, bottom = (float(value) for value in box)
    middle_x, middle_y = (x + right) / 2, (y + bottom) / 2
    return [middle_x, y, right, middle_y, middle_x, bottom, x, middle_y]


def features_and_classes(case: Case, scene: Scene) -> dict[str, Array]:
    """Features that follow the scene's colours, for heads that see no image, and classes that follow its things."""
    channels, height, width = case.inputs["p2"].shape[1:]
    small = resize(scene.image, height, width).astype(np.float32) / 255
    random = np.random.RandomState(0)
    mixed = np.tanh(small @ random.standard_normal((3, channels)) + 0.5 * random.standard_normal(channels))
    features = torch.from_numpy(mixed.transpose(2, 0, 1)[None].astype(np.float32)).half().float().numpy()
    label = case.inputs["train_label"]
    classes = np.full(scene.image.shape[:2], 255, np.uint8)
    for number, thing in enumerate(scene.things):
        classes[thing.mask] = 7 * number
    crops = [resize(classes, *label.shape[1:])[None], classes[: label.shape[1], : label.shape[2]][None]]
    return {"p2": features, "train_label": np.concatenate(crops)}
