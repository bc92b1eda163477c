"""The smallest model of every package, and data for it: seconds for a step of training and an evaluation."""

import shlex
from pathlib import Path

from tests.running import run, small_data

# package or a part of one: (folder of its commands, annotations that it takes, flags that make it small)
SMALL = {
    "solov2": ("solov2", "instances", "--model.fpn-channels 32 --model.tower-channels 32 --model.tower-depth 1"),
    "yolact": ("yolact", "instances", "--model.input-size 96 --model.channels 32 --model.scales 8 16 32 64 96"),
    "maskrcnn": (
        "maskrcnn",
        "instances",
        "--model.fpn-channels 16 --model.box-channels 16 --model.mask-channels 16 --model.mask-depth 1 "
        "--proposals.kept 20 --test.score-threshold 0.0 --test.max-instances 10",
    ),
    "upsnet": (
        "upsnet",
        "panoptic",
        "--model.fpn-channels 16 --model.box-channels 16 --model.mask-channels 16 --model.semantic-channels 16 "
        "--test.proposals.kept 20 --test.panoptic-score-threshold 0.1 --test.smallest-stuff 1",
    ),
    "pose2seg": (
        "pose2seg",
        "keypoints",
        "--model.fpn-channels 32 --model.segmentation-blocks 1 --model.input-size 96 --model.window 32",
    ),
    "glip": (
        "glip",
        "captions",
        "--model.swin-width 16 --model.swin-heads 1 2 4 8 --model.channels 32 --model.groups 4 --model.blocks 1 "
        "--text.width 32 --text.layers 1 --text.inner-width 32 --test.score-threshold 0.001",
    ),
    "refinemask": (
        "refinemask_psg",
        "instances",
        "--model.fpn-channels 32 --model.box-channels 32 --model.mask-channels 24 --test.score-threshold 0.005 "
        "--test.max-instances 5 --test.proposals 20",
    ),
    "psg": (
        "refinemask_psg",
        "scene_graph",
        "psg_shapes --model.fpn-channels 32 --model.box-channels 32 --model.semantic-channels 16 --model.proposals 20 "
        "--relations.hidden 16 --relations.attention-heads 2 --relations.intermediate 16 --relations.layers 1 "
        "--relations.score-threshold 0.0 --test.max-instances 4 --test.score-threshold 0.0 --augment.long-side 64 "
        "--model.mask-targets bitmaps --test.long-side 64",
    ),
    "u2net": ("refinemask_psg/u2net", "instances", "--augment.size 40 --augment.crop 32 --test.size 32"),
}


def trained(name: str, folder: Path, *more: object, count: int = 6) -> Path:
    """The weights of the smallest model called `name`, which train.py made of so many scenes in two steps."""
    steps = shlex.split("--steps 2 --batch-size 2 --workers 0 --device cpu")
    run(f"{SMALL[name][0]}/train.py", *flags(name, folder, count), *steps, *more, cwd=folder)
    (weights,) = folder.glob("runs/*/*/best.safetensors")
    return weights


def package_of(name: str) -> str:
    """The dotted name of the package whose commands the model has."""
    return SMALL[name][0].replace("/", ".")


def flags(name: str, folder: Path, count: int = 4) -> list[str]:
    """The variant, settings and data of the smallest model called `name`; its scenes are drawn in `folder`."""
    _, annotations, small = SMALL[name]
    data = small_data(folder, count, annotations)
    if name == "psg":  # its files name the images from the data set's root
        data = [word.removesuffix("/images") if word.endswith("/images") else word for word in data]
    return [*shlex.split(small), *data]
