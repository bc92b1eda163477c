"""Every setting of SOLOv2, its default, and the published variants."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Depth, Doublings, NotNegative, Positive, Share, WholeOrUnset, Width
from common.run.settings import Data, Optimizer, Schedule, Training, coco_2017

COCO_STRIDES = (8, 8, 16, 32, 32)  # of P2 to P6 as the heads get them; also the masks' smallest areas
FULL_RANGES = ((1.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, 2048.0))
LIGHT_448_RANGES = ((1.0, 56.0), (28.0, 112.0), (56.0, 224.0), (112.0, 448.0), (224.0, 896.0))
LIGHT_512_RANGES = ((1.0, 64.0), (32.0, 128.0), (64.0, 256.0), (128.0, 512.0), (256.0, 2048.0))


@dataclass
class Model:
    """The network."""

    backbone: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnext101_64x4d"] = "resnet50"
    """A torchvision residual network; resnet10 is resnet18 with one block for each stage."""
    norm: Literal["frozen_batch", "group"] = "frozen_batch"
    """The backbone's normalisation: batch norm with fixed statistics (pretrained), or group norm (from scratch)."""
    frozen_stages: WholeOrUnset = 1
    """The stem and so many stages of the backbone are not trained; -1: all of it is."""
    deformable: Literal["none", "v1", "v2"] = "none"
    """Deformable 3x3 convolutions in the backbone's last three stages; v2 modulates them."""
    deformable_towers: Literal["none", "last", "all"] = "none"
    """Which convolutions of the category and kernel towers are deformable."""
    deformable_mask_feature: bool = False
    """Whether the mask feature head is deformable."""
    fpn_channels: Width = 256
    """Width of the feature pyramid."""
    tower_channels: Width = 512
    """Width of the category and kernel towers."""
    tower_depth: Depth = 4
    """Convolutions in each tower."""
    mask_head_channels: Width = 128
    """Width inside the mask feature head."""
    mask_channels: Width = 256
    """Channels of the mask feature, and so of each predicted kernel."""
    waves: Doublings = 0
    """So many lengths of waves say where each pixel is, to masks and kernels, beside the paper's x and y."""
    grids: tuple[Width, ...] = (40, 36, 24, 16, 12)
    """Cells along each side, for each level."""
    strides: tuple[Width, ...] = COCO_STRIDES
    """Each level's stride; a mask must cover more stride-4 pixels than this to be kept."""
    scale_ranges: tuple[tuple[NotNegative, NotNegative], ...] = FULL_RANGES
    """Which object sizes (square root of the box's area, in network-input pixels) a level learns."""
    centre_fraction: Share = 0.2
    """The part of an object's box, around its centre of mass, whose cells must predict it."""
    mask_loss_weight: NotNegative = 3.0
    """Weight of the dice loss against the focal loss."""
    stride_in_1x1: bool = False
    """The backbone's bottlenecks halve the resolution in their first 1x1 convolution (Caffe), not in the 3x3."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colours in the network's input."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from the values 0 to 255, in that order."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """What they are divided by then."""


@dataclass
class Inference:
    """From answers to results."""

    long_side: Width = 1333
    """A photograph is scaled so that its long side is at most this ..."""
    short_side: Width = 800
    """... and its short side at most this."""
    resize: Literal["opencv", "detectron2"] = "opencv"
    """Who scales it: OpenCV, without antialiasing, or Pillow, with it, to sizes that Detectron2 rounds."""
    score_threshold: Share = 0.1
    """Cells with a lower category score are not looked at."""
    mask_threshold: Share = 0.5
    """Where a soft mask becomes foreground."""
    update_threshold: Share = 0.05
    """Masks whose score falls below this in matrix NMS are dropped."""
    kernel: Literal["gaussian", "linear"] = "gaussian"
    """How matrix NMS turns overlap into decay."""
    sigma: Positive = 2.0
    """Sharpness of the gaussian."""
    max_candidates: Count = 500
    """How many masks enter matrix NMS."""
    max_instances: Count = 100
    """How many masks an image may have."""
    largest_part: bool = False
    """Keep of each mask the largest part alone: stray pixels widen boxes. The original keeps all."""


@dataclass
class Augment:
    """What training does to the photographs."""

    long_side: Width = 1333
    """Longest long side after scaling."""
    short_sides: tuple[Width, ...] = (640, 672, 704, 736, 768, 800)
    """The short side is drawn from these."""
    flip: Share = 0.5
    """How often an image is mirrored."""


@dataclass
class Config:
    """SOLOv2: Dynamic and Fast Instance Segmentation (Wang et al., 2020)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _full(variant: str, model: Model, short_sides: tuple[int, ...] = (640, 672, 704, 736, 768, 800)) -> Config:
    """The full-size recipe: 36 epochs, or 12 at a single scale."""
    once = len(short_sides) == 1
    return Config(
        variant=variant,
        training=Training(epochs=12 if once else 36, batch_size=16),
        model=model,
        augment=Augment(short_sides=short_sides),
        data=coco_2017(),
        optimizer=Optimizer(name="sgd", lr=0.01, clip=35.0),
        schedule=Schedule(milestones=[9, 11] if once else [27, 33]),
    )


def _adelaidet(variant: str, backbone: Literal["resnet50", "resnet101"]) -> Config:
    """AdelaiDet's recipe, by SOLO's authors: on Detectron2's backbones in the manner of Caffe."""
    bgr = {"channels": "bgr", "mean": (103.53, 116.28, 123.675), "std": (1.0, 1.0, 1.0)}
    config = _full(variant, Model(backbone=backbone, stride_in_1x1=True, **bgr))  # type: ignore[arg-type]
    config.test.resize = "detectron2"
    return config


def _light(variant: str, model: Model, long_side: int, short_side: int) -> Config:
    """The light recipe: narrower heads on smaller photographs."""
    full = _full(variant, replace(model, tower_channels=256, mask_channels=128))
    full.test = Inference(long_side=long_side, short_side=short_side)
    full.augment = Augment(long_side=long_side, short_sides=(352, 384, 416, 448, 480, 512))
    return full


def _light_448(variant: str, backbone: Literal["resnet18", "resnet34", "resnet50"]) -> Config:
    model = Model(backbone=backbone, tower_depth=2, scale_ranges=LIGHT_448_RANGES)
    return _light(variant, model, 768, 448)


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=16, batch_size=8, evaluate_every=8),
        model=Model(
            backbone="resnet10",
            norm="group",
            frozen_stages=-1,
            fpn_channels=64,
            tower_channels=64,
            tower_depth=2,
            mask_head_channels=32,
            mask_channels=32,
            mask_loss_weight=1.0,
            grids=(20, 18, 12, 8, 6),
            scale_ranges=((1.0, 24.0), (12.0, 48.0), (24.0, 96.0), (48.0, 192.0), (96.0, 512.0)),
        ),
        test=Inference(long_side=192, short_side=192),
        augment=Augment(long_side=192, short_sides=(128, 144, 160, 176, 192)),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=10.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


def _small() -> Config:
    """For own data (--data), whose pictures and objects say the sizes, grids, ranges and steps."""
    config = _shapes()
    config.variant = "small"
    # things of 8 pixels are kept, and many of one kind told apart
    config.model = replace(config.model, strides=(4, 8, 16, 32, 32), waves=5)
    return config


_DCN = Model(deformable="v1", deformable_towers="last", tower_depth=3, scale_ranges=LIGHT_512_RANGES)
_DCN_EVERYWHERE = Model(deformable="v2", deformable_towers="all", deformable_mask_feature=True)
_ALL = (
    _shapes(),
    _small(),
    _light_448("light_r18_448", "resnet18"),
    _light_448("light_r34_448", "resnet34"),
    _light_448("light_r50_448", "resnet50"),
    _light("light_r50_dcn_512", _DCN, 852, 512),
    _full("r50_1x", Model(), short_sides=(800,)),
    _full("r50_3x", Model()),
    _full("r101_3x", Model(backbone="resnet101")),
    _full("r101_dcn_3x", replace(_DCN_EVERYWHERE, backbone="resnet101")),
    _adelaidet("adelaidet_r50_3x", "resnet50"),
    _adelaidet("adelaidet_r101_3x", "resnet101"),
    _full("x101_dcn_3x", replace(_DCN_EVERYWHERE, backbone="resnext101_64x4d")),
)
VARIANTS: dict[str, Config] = {each.variant: each for each in _ALL}
