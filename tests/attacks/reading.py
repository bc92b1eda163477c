"""Reads one file as the commands read it: python -m tests.attacks.reading KIND WORDS..."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import maskworks.__main__ as maskworks_command
from common.data.coco import CocoDataset
from common.data.images import image_size, read_ids, read_image
from common.metrics import evaluate_coco
from common.run.resume import load_state
from common.run.runlog import RunLog
from glip.captioned_data import CaptionedDataset
from glip.prompts import read_prompt
from glip.tokeniser import Tokeniser
from maskworks import exported, own_data
from maskworks.command_line import program
from maskworks.command_line.variants import configure
from maskworks.picture_kinds import described
from maskworks.published.class_lists import read_classes
from pose2seg.joints import read_for_files
from refinemask_psg.psg.data import PsgDataset
from upsnet.panoptic_data import PanopticDataset


def image(name: str) -> None:
    size = image_size(Path(name))
    assert read_image(Path(name)).shape[:2] == size
    described([Path(name)])


def whole(dataset: Any) -> None:
    for index in range(min(len(dataset), 100)):
        sample = dataset[index]
        assert sample.masks.shape[1:] == sample.image.shape[:2]
        dataset.polygons(index)


def coco(name: str) -> None:
    dataset = CocoDataset(["images"], [name])
    whole(dataset)
    truth = dataset.annotations_json()
    evaluate_coco(truth, [], "bbox")


def captions(name: str) -> None:
    dataset = CaptionedDataset(["images"], [name])
    whole(dataset.boxes)
    for index in range(len(dataset)):
        dataset.caption(index)


def weights(package: str, name: str) -> None:
    import_module(package).load(name, device="cpu")


def settings(package: str, *words: str) -> None:
    configure(import_module(package).VARIANTS, words)


def prompt(vocabulary: str, text: str, *spans: str) -> None:
    from glip.config import VARIANTS

    config = VARIANTS["shapes"].text
    read_prompt(text, Tokeniser(vocabulary, config.max_tokens), config, spans)


READERS: dict[str, Callable[..., object]] = {
    "image": image,
    "ids": lambda name: read_ids(Path(name)),
    "coco": coco,
    "results": evaluate_coco,
    "captions": captions,
    "panoptic": lambda name: whole(PanopticDataset(["images"], [name])),
    "psg": lambda name: whole(PsgDataset(["."], [name], "train")),
    "joints": lambda name: read_for_files(Path(name), 0.0)(Path("images/a.png")),
    "data": lambda name: own_data.configured(import_module("solov2").VARIANTS, ["--data", name]),
    "weights": weights,
    "package": maskworks_command.package_of,
    "state": lambda name: load_state(Path(name)),
    "log": lambda: RunLog(Path(), 1).close(),
    "settings": settings,
    "classes": read_classes,
    "prompt": prompt,
    "onnx": lambda name, picture: exported.load(Path(name)).predict(picture),
}

if __name__ == "__main__":
    program.run(lambda: print(json.dumps(str(READERS[sys.argv[1]](*sys.argv[2:])))[:200]))
