"""Every setting of UPSNet, its default, and the published variants."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Depth, NotNegative, Positive, Share, Whole, WholeOrUnset, Width
from common.run.settings import Data, Images, Optimizer, Schedule, Training, coco_2017


@dataclass
class Proposals:
    """From anchors to region proposals."""

    candidates: Count
    """So many of each level's best anchors are looked at ..."""
    kept: Count
    """... and so many proposals kept, of a level as of all."""
    iou_threshold: Share = 0.7
    """A proposal that overlaps a better one of its level by more is dropped."""


@dataclass
class Model:
    """The network."""

    backbone: Literal["resnet10", "resnet50", "resnet101", "efficientnet_b0"] = "resnet50"
    """A torchvision network; resnet10 has one basic block for each stage."""
    norm: Literal["frozen_batch", "group"] = "frozen_batch"
    """The backbone's normalisation: batch norm with fixed statistics (pretrained), or group norm (from scratch)."""
    batch_norm_eps: NotNegative = 1e-5
    """What batch norm adds to the variance; 1e-3 for weights of efficientnet-pytorch."""
    tensorflow_padding: bool = False
    """Pad EfficientNet's strided convolutions at the right and the bottom only, as efficientnet-pytorch does."""
    frozen_stages: WholeOrUnset = 1
    """The stem and so many stages of the backbone are not trained; -1: all of it is."""
    deformable: bool = False
    """Deformable 3x3 convolutions in the backbone's last three stages."""
    global_context: bool = True
    """Add the averaged coarsest feature to the top of the pyramid."""
    fpn_channels: Width = 256
    """Width of the feature pyramid, and of the region proposal head."""
    box_channels: Width = 1024
    """Width of the box head's two layers."""
    mask_channels: Width = 256
    """Width of the mask head."""
    semantic_channels: Width = 128
    """Width of the semantic head's last two layers."""
    semantic_layers: Depth = 3
    """Convolutions in the semantic head."""
    semantic_deformable: bool = True
    """Whether they are deformable."""
    head_norm: Literal["none", "group"] = "none"
    """Normalisation in the semantic and mask heads; group helps from scratch."""
    things: Whole = 0
    """So many of the classes are things, the first ones; 0: as many as the training data has."""
    colours: Literal["bgr", "rgb"] = "bgr"
    """The order of the colours in the network's input."""
    mean: tuple[float, float, float] = (122.7717, 115.9465, 102.9801)
    """Subtracted from the RGB values."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """What they are divided by then."""


@dataclass
class Inference:
    """From answers to results."""

    long_side: Width = 1333
    """A photograph is scaled so that its short side is `short_side`, unless its long side became longer than this."""
    short_side: Width = 800
    """Short side of the network's input."""
    proposals: Proposals = field(default_factory=lambda: Proposals(1000, 1000))
    """The region proposals."""
    score_threshold: Share = 0.05
    """Instances with a lower score are dropped."""
    nms_threshold: Share = 0.5
    """An instance that overlaps a better one by more is dropped: of its class, in the panoptic head of any class."""
    max_instances: Count = 100
    """How many instances an image may have."""
    panoptic_score_threshold: Share = 0.6
    """Instances with a lower score do not enter the panoptic head."""
    covered_fraction: Share = 0.3
    """An instance covered by more than this by better ones of its class is removed from the panoptic map."""
    smallest_stuff: Whole = 4096
    """Stuff of fewer pixels in the photograph becomes void."""


@dataclass
class Train:
    """What the heads learn from, and how much each loss counts."""

    proposals: Proposals = field(default_factory=lambda: Proposals(2000, 2000))
    """The region proposals."""
    anchors: Count = 256
    """How many anchors of an image the region proposal head learns from."""
    positive_anchors: Share = 0.5
    """At most this part of them covers objects."""
    positive_iou: Share = 0.7
    """An anchor that overlaps an object by this much covers it."""
    negative_iou: Share = 0.3
    """An anchor that overlaps every object by less covers none."""
    rois: Count = 512
    """How many regions of an image the box head learns from."""
    positive_rois: Share = 0.25
    """At most this part of them covers objects."""
    roi_iou: Share = 0.5
    """A region that overlaps an object by this much covers it."""
    panoptic_boxes: Share = 0.7
    """The part of the objects whose boxes the panoptic head is given; the others are to become void."""
    semantic_weight: NotNegative = 0.2
    """Weight of the semantic loss."""
    roi_semantic_weight: NotNegative = 0.04
    """Weight of the semantic loss inside the objects' boxes; 0: there is none."""
    panoptic_weight: NotNegative = 0.1
    """Weight of the panoptic loss."""


@dataclass
class Augment:
    """What training does to the photographs."""

    long_side: Width = 1333
    """Longest long side after scaling."""
    short_sides: tuple[Width, ...] = (800,)
    """The short side is drawn from these."""
    flip: Share = 0.5
    """How often an image is mirrored."""


@dataclass
class Config:
    """UPSNet: A Unified Panoptic Segmentation Network (Xiong et al., 2019)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    test: Inference = field(default_factory=Inference)
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _published(config: Config, images: int, steps: int, milestones: list[float], warmup: int = 1500) -> Config:
    """The published runs count optimizer steps, each of one image for every graphics card.

    The rate is 0.02 for 16 images; biases learn twice as fast and do not decay.
    """
    return replace(
        config,
        training=Training(steps=steps, batch_size=images, save_every=2000),
        optimizer=Optimizer(name="sgd", lr=0.02 * images / 16, norm_and_bias_decay=False, bias_lr_scale=2.0),
        schedule=Schedule(unit="steps", milestones=milestones, warmup=warmup, warmup_ratio=0.1),
    )


def _coco(variant: str, model: Model, short_sides: tuple[int, ...] = (800,)) -> Config:
    return Config(
        variant=variant,
        model=replace(model, things=80),
        augment=Augment(short_sides=short_sides),
        data=coco_2017("panoptic"),
    )


def _cityscapes(variant: str, backbone: Literal["resnet50", "resnet101"]) -> Config:
    folder = "datasets/cityscapes"
    return Config(
        variant=variant,
        model=Model(backbone=backbone, things=8, global_context=False, semantic_layers=2),
        test=Inference(long_side=2048, short_side=1024, smallest_stuff=2048),
        train=Train(semantic_weight=1.0, roi_semantic_weight=0.0, panoptic_weight=0.5),
        augment=Augment(long_side=2048, short_sides=(800, 832, 864, 896, 928, 960, 992, 1024)),
        data=Data(
            train=Images([f"{folder}/leftImg8bit/train"], [f"{folder}/panoptic_train.json"]),
            val=Images([f"{folder}/leftImg8bit/val"], [f"{folder}/panoptic_val.json"]),
            keep_empty=False,
        ),
    )


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=14, batch_size=8, evaluate_every=7),
        model=Model(
            backbone="resnet10",
            norm="group",
            frozen_stages=-1,
            fpn_channels=64,
            box_channels=256,
            mask_channels=32,
            semantic_channels=32,
            semantic_layers=2,
            semantic_deformable=False,  # torchvision's takes two thirds of a training step's time on a processor
            head_norm="group",
            colours="rgb",
            mean=(123.675, 116.28, 103.53),
            std=(58.395, 57.12, 57.375),
        ),
        test=Inference(
            long_side=192,
            short_side=192,
            proposals=Proposals(200, 200),
            panoptic_score_threshold=0.5,
            smallest_stuff=64,
        ),
        train=Train(
            proposals=Proposals(300, 300),
            anchors=128,
            rois=64,
            semantic_weight=1.0,
            roi_semantic_weight=0.2,
            panoptic_weight=0.5,
        ),
        augment=Augment(long_side=192, short_sides=(128, 144, 160, 176, 192)),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=10.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


_EFFICIENTNET_B0 = Model(
    backbone="efficientnet_b0", colours="rgb", mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)
)
_LARGE = _coco("resnet101_dcn_coco", Model(backbone="resnet101", deformable=True), (640, 672, 704, 736, 768, 800, 832))

VARIANTS: dict[str, Config] = {
    config.variant: config
    for config in (
        _shapes(),
        _published(_coco("efficientnet_b0_coco", _EFFICIENTNET_B0), 4, 360_000, [240_000, 320_000]),
        _published(_coco("resnet50_coco", Model()), 16, 90_000, [60_000, 80_000]),
        _published(_LARGE, 16, 270_000, [210_000, 250_000]),
        _published(_cityscapes("resnet50_cityscapes", "resnet50"), 16, 12_000, [9_000]),
        _published(_cityscapes("resnet101_cityscapes", "resnet101"), 16, 3_000, [2_000], warmup=0),
    )
}
