"""Every setting of U-2-Net, its default, and the variants."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from common.run.ranges import Share, Width
from common.run.settings import Data, Images, Optimizer, Schedule, Training

INPUT_SIZE = 320


@dataclass
class Model:
    """The network."""

    small: bool = False
    """The narrow one, u2netp: 4.7 MB of weights instead of 176."""


@dataclass
class Inference:
    """From photographs to maps."""

    size: Width = INPUT_SIZE
    """Side of the square that a photograph is scaled to."""


@dataclass
class Augment:
    """What training does to photographs."""

    size: Width = INPUT_SIZE
    """Side of the square that a photograph is scaled to."""
    crop: Width = 288
    """Side of the square that is cut out of it, at random."""
    horizontal: Share = 0.5
    """How often it is mirrored left to right."""
    vertical: Share = 0.5
    """How often it is turned upside down."""


@dataclass
class SaliencyData(Data):
    """Where photographs and masks are: `annotations` names folders of grey masks with the photographs' names (DUTS),
    or COCO-format files, whose objects are the foreground together."""

    faulty: Literal["stop", "skip"] = "stop"
    """What a photograph without a mask does, a mask without one, of another size or in colour: stop, or be left out."""


@dataclass
class Config:
    """U-2-Net: Going Deeper with Nested U-Structure for Salient Object Detection (Qin et al., 2020)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    data: SaliencyData = field(default_factory=SaliencyData)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _duts(split: str) -> Images:
    folder = f"datasets/duts/DUTS-{split}/DUTS-{split}"
    return Images([f"{folder}-Image"], [f"{folder}-Mask"])


def _published(variant: str) -> Config:
    """The paper's recipe: DUTS-TR, Adam, a constant rate, 600,000 steps of 12."""
    return Config(
        variant=variant,
        training=Training(steps=600_000, batch_size=12, save_every=2000, evaluate_every=10),
        model=Model(small=variant == "u2netp"),
        data=SaliencyData(train=_duts("TR"), val=_duts("TE")),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.0),  # without decay AdamW is Adam
        schedule=Schedule(warmup=0),
    )


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=2, batch_size=8, evaluate_every=0),
        model=Model(small=True),
        test=Inference(size=96),
        augment=Augment(size=96, crop=80, vertical=0.0),
        optimizer=Optimizer(name="adamw", lr=2e-3, weight_decay=0.0),
        schedule=Schedule(name="cosine", warmup=20),
    )


VARIANTS: dict[str, Config] = {"shapes": _shapes(), "u2net": _published("u2net"), "u2netp": _published("u2netp")}
