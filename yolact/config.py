"""Every setting of YOLACT and YOLACT++, its default, and the published variants."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Factor, NotNegative, Positive, Share, Whole, Width
from common.run.settings import Data, Images, Optimizer, Schedule, Training, coco_2017

SCALES = (24.0, 48.0, 96.0, 192.0, 384.0)  # of the priors on P3..P7, in pixels of a 550 x 550 input


@dataclass
class Model:
    """The network."""

    backbone: Literal["resnet10", "resnet50", "resnet101", "darknet53"] = "resnet50"
    """A torchvision residual network (resnet10: resnet18 with one block for each stage), or Darknet-53."""
    norm: Literal["batch", "group"] = "batch"
    """The backbone's normalisation: batch norm (pretrained), or group norm (from scratch)."""
    freeze_batch_norm_below: Whole = 6
    """Batch norms are neither trained nor updated where a process sees fewer images at once than this."""
    deformable_interval: Whole = 0
    """In the last three stages, each so many-th residual block has a deformable convolution; 0: none has."""
    input_size: Width = 550
    """Photographs are stretched to a square of this side."""
    channels: Width = 256
    """Width of the feature pyramid, the protonet and the prediction head."""
    rectified_pyramid: bool = True
    """A ReLU after P3, P4 and P5; MMDetection's has none."""
    coarse_levels_from: Literal["p5", "c5"] = "p5"
    """What P6 is made of; MMDetection takes the backbone's C5."""
    prototypes: Width = 32
    """Prototype masks, and so mask coefficients of each prediction."""
    scales: tuple[Positive, ...] = SCALES
    """Size of the priors of each level, in network-input pixels."""
    scale_factors: tuple[Positive, ...] = (1.0,)
    """Each level has priors of its size times each of these."""
    aspect_ratios: tuple[Positive, ...] = (1.0, 0.5, 2.0)
    """Width over height of the priors of each size."""
    square_priors: bool = True
    """The height of a prior is its width, whatever the aspect ratio: YOLACT 1.0 was published with that."""
    mask_iou: bool = False
    """YOLACT++: a small network predicts each mask's IoU, which its score is multiplied by."""
    mean: tuple[float, float, float] = (123.68, 116.78, 103.94)
    """Subtracted from the RGB values."""
    std: tuple[Positive, Positive, Positive] = (58.40, 57.12, 57.38)
    """What they are divided by then."""


@dataclass
class Losses:
    """Which priors learn what, and the weights of the loss terms."""

    positive_iou: Share = 0.5
    """From this overlap with an object a prior learns it."""
    negative_iou: Share = 0.4
    """Below this overlap a prior learns the background; in between it learns nothing."""
    crowd_overlap: Share = 0.7
    """A prior with more of its area than this inside a crowd region learns no background."""
    negatives_per_positive: Whole = 3
    """How many of the hardest background priors learn, for each that learns an object."""
    box_weight: NotNegative = 1.5
    """Weight of the smooth L1 loss of the boxes."""
    mask_weight: NotNegative = 6.125
    """Weight of the masks' binary cross entropy."""
    semantic_weight: NotNegative = 1.0
    """Weight of the semantic segmentation loss."""
    mask_iou_weight: NotNegative = 25.0
    """Weight of the smooth L1 loss of the predicted mask IoUs."""
    max_masks: Count = 100
    """So many priors of an image learn their mask, drawn at random where there are more."""
    smallest_mask: Whole = 25
    """Masks with so many pixels at the prototypes' size, or fewer, teach no mask IoU."""


@dataclass
class Inference:
    """From answers to results."""

    resize: Literal["float", "bytes"] = "float"
    """Photographs are stretched in floating point, or in bytes as MMDetection does."""
    score_threshold: Share = 0.05
    """Priors whose best class scores no more than this are not looked at."""
    nms: Literal["fast", "cross_class", "traditional"] = "fast"
    """fast: in parallel, for each class; cross_class: each box with its best class only; traditional: greedy."""
    iou_threshold: Share = 0.5
    """A box that overlaps a better one by more is dropped."""
    top_k: Count = 200
    """How many boxes (of each class) enter fast NMS."""
    max_instances: Count = 100
    """How many instances an image may have; cross-class NMS does not look at it."""
    level_candidates: Whole = 0
    """At most so many priors of each level are looked at; 0: all. MMDetection: 1000, whatever their score."""
    threshold_after_nms: bool = False
    """Apply the score threshold to each box's own class as well, as MMDetection does."""
    clip_boxes: bool = False
    """Clip boxes to the photograph, and how far sizes can be stretched, before NMS; MMDetection does."""
    whole_pixels: bool = True
    """Cut the boxes' coordinates to whole pixels."""
    drop_empty_boxes: bool = True
    """Drop boxes without area, as the original does when it writes COCO's format."""
    min_score: Share = 0.0
    """Instances must score more than this in the end."""


@dataclass
class Augment:
    """What training does to the photographs, as SSD does."""

    photometric: bool = True
    """Change brightness, contrast, saturation and hue."""
    expand: Factor = 4.0
    """Half of the photographs are put somewhere on a canvas up to this many times as wide and high; 1: none."""
    crop: Share = 5 / 6
    """How often a part with at least one object's centre is cut out."""
    smallest_crop: Share = 0.3
    """The least width and height of that part, as a fraction of the photograph's."""
    flip: Share = 0.5
    """How often an image is mirrored."""


@dataclass
class Config:
    """YOLACT: Real-time Instance Segmentation (Bolya et al., 2019), and YOLACT++ (2020)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    recipe_batch_size: Whole = 0
    """The variant's lr, steps and milestones are for batches of this size and scaled to --batch-size; 0: are not. What
    is given by hand, as a flag or in --config, is taken as it is."""
    model: Model = field(default_factory=Model)
    losses: Losses = field(default_factory=Losses)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _published(variant: str, model: Model, losses: Losses | None = None) -> Config:
    """The published recipe: 800,000 steps of 8 images, about 54 epochs of COCO."""
    return Config(
        variant=variant,
        training=Training(steps=800_000, epochs=55, batch_size=8, evaluate_every=2, not_finite="skip"),
        recipe_batch_size=8,
        model=model,
        losses=losses or Losses(),
        data=coco_2017(),
        optimizer=Optimizer(name="sgd", lr=1e-3, weight_decay=5e-4),
        schedule=Schedule(milestones=[280_000, 600_000, 700_000, 750_000], unit="steps", warmup=500, warmup_ratio=0.1),
    )


def _at(size: int, model: Model) -> Model:
    """Another input size; the priors grow with it, cut to whole pixels."""
    return replace(model, input_size=size, scales=tuple(float(int(scale * size / 550)) for scale in SCALES))


def _plus(model: Model, deformable_interval: int) -> Model:
    """YOLACT++: deformable convolutions, three sizes of true rectangles on each level, mask re-scoring."""
    return replace(
        model,
        deformable_interval=deformable_interval,
        scale_factors=tuple(2 ** (third / 3) for third in range(3)),
        square_priors=False,
        mask_iou=True,
    )


def _pascal() -> Config:
    """Pascal VOC with the SBD annotations: 20 classes, larger and truly rectangular priors."""
    model = Model(scales=(32.0, 64.0, 128.0, 256.0, 512.0), square_priors=False)
    config = _published("resnet50_pascal", model)
    config.training.steps, config.schedule.milestones = 120_000, [60_000, 100_000]
    config.data = Data(
        train=Images(["datasets/sbd/img"], ["datasets/sbd/pascal_sbd_train.json"]),
        val=Images(["datasets/sbd/img"], ["datasets/sbd/pascal_sbd_val.json"]),
        keep_empty=False,
    )
    return config


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=16, batch_size=8, evaluate_every=8),
        model=Model(
            backbone="resnet10",
            norm="group",
            input_size=192,
            channels=64,
            prototypes=16,
            scales=(16.0, 36.0, 80.0, 120.0, 160.0),
            scale_factors=(1.0, 1.5),
            square_priors=False,
        ),
        augment=Augment(photometric=False, expand=1.0, crop=0.5, smallest_crop=0.6),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=10.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


_RESNET101 = Model(backbone="resnet101")
_DARKNET53 = Model(backbone="darknet53", mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
_ALL = (
    _shapes(),
    replace(_shapes(), variant="small"),  # for own data (--data), which says sizes and steps
    _published("resnet50_550", Model()),
    _published("base", _RESNET101),
    _published("darknet53_550", _DARKNET53),
    _published("im700", _at(700, _RESNET101), Losses(max_masks=300)),
    _published("im400", _at(400, _RESNET101)),
    _published("plus_resnet50_550", _plus(Model(), deformable_interval=1)),
    _published("plus_base", _plus(_RESNET101, deformable_interval=3)),
    _pascal(),
)
VARIANTS: dict[str, Config] = {each.variant: each for each in _ALL}
