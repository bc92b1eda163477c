"""Every setting of Pose2Seg, its default, and the variants."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Depth, NotNegative, Positive, Share, Width
from common.run.settings import Data, Images, Optimizer, Schedule, Training


@dataclass
class Model:
    """The network."""

    backbone: Literal["resnet10", "resnet50"] = "resnet50"
    """A torchvision residual network; resnet10 has one basic block for each stage."""
    norm: Literal["batch", "group"] = "batch"
    """Batch norm, as published, or group norm, which doesn't need many images at a time."""
    input_size: Width = 512
    """Side of the square that a photograph is scaled and padded to."""
    window: Width = 64
    """Side of the square in which a person stands upright and is segmented."""
    fpn_channels: Width = 256
    """Width of the feature pyramid."""
    stem_kernel: Width = 7
    """Side of the segmentation module's first convolution."""
    segmentation_channels: Width = 256
    """Width inside the segmentation module's residual blocks; they put out four times as many."""
    segmentation_blocks: Depth = 10
    """Residual blocks at half the window's size."""
    decoder_channels: Width = 128
    """Width inside the last residual block, at the window's size."""
    joint_spread: Positive = 3.0
    """Standard deviation of the bell that is drawn at a joint, in window pixels."""
    limb_width: Positive = 1.0
    """Half the width of the limbs that are drawn between joints, in window pixels."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from the RGB values."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """What they are divided by then."""


@dataclass
class Inference:
    """From answers to results."""

    people_at_once: Count = 8
    """So many people go through the segmentation module together; memory grows with it, time doesn't."""
    smallest_confidence: NotNegative = 0.0
    """A joint of a keypoint results file counts as seen if its confidence is larger."""
    smallest_score: Share = 0.7
    """A person that the detector finds counts if it scores at least this."""
    smallest_joint_score: float = 2.0
    """A joint of such a person counts as seen if its score, a logit, is larger."""
    occlusion: tuple[Share, ...] = (0.0, 0.5, 0.75, 1.0)
    """Scores are also given for people whose box overlaps another's (largest IoU) by at least one and less than the
    next of these."""
    maps: str = ""
    """Folder for a PNG of each image with its people's masks; empty: none are written."""


@dataclass
class Augment:
    """What training does to each person's window."""

    people: Count = 8
    """At most so many people of a batch are trained on, drawn anew each time."""
    rotation: NotNegative = 30.0
    """Largest turn, in degrees, either way."""
    scale: tuple[Positive, Positive] = (0.8, 1.2)
    """Smallest and largest scale."""
    shift: Share = 0.1
    """Largest shift along each axis, as a part of the window."""


COCO, OCHUMAN = "datasets/coco", "datasets/ochuman"
COCO_PERSONS = COCO + "/annotations/person_keypoints_{}2017_pose2seg.json"
OCHUMAN_JSON = OCHUMAN + "/annotations/ochuman_coco_format_{}_range_0.00_1.00.json"


@dataclass
class PeopleData(Data):
    """Where images, annotations and keypoints are."""

    keypoints: list[str] = field(default_factory=list)
    """COCO keypoint results, a file for each data set that is scored: their joints instead of the true ones."""
    detector: str = ""
    """Weights of torchvision's keypointrcnn_resnet50_fpn: evaluate with the joints that it finds."""
    coco: Images = field(default_factory=lambda: Images([f"{COCO}/val2017"], [COCO_PERSONS.format("val")]))
    """COCOPersons val, for --coco."""
    ochuman_val: Images = field(default_factory=lambda: Images([f"{OCHUMAN}/images"], [OCHUMAN_JSON.format("val")]))
    """OCHuman val, for --OCHuman."""
    ochuman_test: Images = field(default_factory=lambda: Images([f"{OCHUMAN}/images"], [OCHUMAN_JSON.format("test")]))
    """OCHuman test, for --OCHuman."""


@dataclass
class Config:
    """Pose2Seg: Detection Free Human Instance Segmentation (Zhang et al., 2019)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    data: PeopleData = field(default_factory=PeopleData)
    coco: bool = False
    """Score on COCOPersons val (--data.coco), as the paper does, instead of --data.val."""
    OCHuman: bool = False
    """Score on OCHuman (--data.ochuman-val, --data.ochuman-test), as the paper does, instead of --data.val."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _coco_occ() -> Config:
    """The published recipe: Adam, one GPU, four images at a time."""
    return Config(
        variant="coco_occ",
        training=Training(epochs=25, batch_size=4),
        data=PeopleData(
            train=Images([f"{COCO}/train2017"], [COCO_PERSONS.format("train")]),
            val=Images([f"{COCO}/val2017"], [COCO_PERSONS.format("val")]),
        ),
        optimizer=Optimizer(name="adamw", lr=2e-4, weight_decay=0.0),  # without decay AdamW is Adam
        schedule=Schedule(milestones=[15, 20], warmup=1000, warmup_ratio=1 / 3),
    )


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=12, batch_size=8, evaluate_every=6),
        model=Model(
            backbone="resnet10",
            norm="group",
            input_size=192,
            fpn_channels=64,
            stem_kernel=3,
            segmentation_channels=32,
            segmentation_blocks=3,
            decoder_channels=32,
        ),
        augment=Augment(people=16),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=10.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


VARIANTS: dict[str, Config] = {"shapes": _shapes(), "coco_occ": _coco_occ()}
