"""Every setting of Mask R-CNN, its default, and the published variants."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Depth, NotNegative, Positive, Share, Whole, WholeOrUnset, Width
from common.run.settings import Data, Images, Optimizer, Schedule, Training, coco_2017

Convention = Literal["detectron", "mmdetection", "torchvision"]
Body = (
    Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    | Literal["resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
)
Neck = Literal["fpn", "c4", "dc5"]


@dataclass
class Model:
    """The network."""

    backbone: Body = "resnet50"
    """A torchvision residual network; resnet10 is resnet18 with one block for each stage."""
    neck: Neck = "fpn"
    """fpn: a feature pyramid; c4: the fourth stage's features, and the fifth stage as the head of each region; dc5: the
    fifth stage's features, dilated to keep the fourth's stride."""
    stride_in_1x1: bool = True
    """Bottlenecks halve the resolution in their first 1x1 convolution (Caffe2), not in the 3x3 (torchvision)."""
    norm: Literal["frozen_batch", "batch", "live_batch", "group"] = "frozen_batch"
    """Batch norm of constants; batch norm with fixed statistics whose scale is trained; of each batch's own statistics;
    group norm (from scratch)."""
    norm_eps: NotNegative = 0.0
    """Added to batch norm's variance: 0 in maskrcnn-benchmark and torchvision's COCO weights, 1e-5 elsewhere."""
    deformable: Literal["none", "offsets", "modulated"] = "none"
    """Whether the 3x3 convolutions of stages 3 to 5 sample at learned offsets (DCN), and weigh them (DCNv2)."""
    deformable_groups: Width = 1
    """So many groups of their channels have offsets of their own."""
    frozen_stages: WholeOrUnset = 1
    """The stem and so many stages of the backbone are not trained; -1: all of it is."""
    fpn_channels: Width = 256
    """Width of the feature pyramid."""
    head_norm: Literal["none", "live_batch", "group"] = "none"
    """Norm of the convolutions of the pyramid, the box head and the mask head."""
    proposal_convs: Depth = 1
    """3x3 convolutions of the proposal head."""
    box_convs: Whole = 0
    """3x3 convolutions of the box head, as wide as the features, before ..."""
    box_layers: Whole = 2
    """... so many fully connected ones; c4 has none."""
    box_channels: Width = 1024
    """Width of these."""
    class_agnostic: bool = False
    """The box head corrects a region in one way for all classes."""
    mask_channels: Width = 256
    """Width of the mask head."""
    mask_resolution: Width = 14
    """Side of the regions cut out for the mask head, which draws at twice that; with c4 at this itself."""
    mask_depth: Whole = 4
    """Convolutions of the mask head before it enlarges; c4 has none."""
    masks: bool = True
    """Whether there is a mask head; without it this is Faster R-CNN."""
    spare_outputs: Whole = 0
    """So many of the last classes have no name, as the ids that COCO leaves out in torchvision's files: they compete
    for scores and for places among an image's detections, and are never reported."""
    mean: tuple[float, float, float] = (102.9801, 115.9465, 122.7717)
    """Subtracted from the values 0 to 255, in the order of `conventions.channels`."""
    std: tuple[Positive, Positive, Positive] = (1.0, 1.0, 1.0)
    """What they are divided by then."""


@dataclass
class Conventions:
    """Where the libraries differ; a variant has those that its published weights were trained with."""

    channels: Literal["bgr", "rgb"] = "bgr"
    """Order of the colours in the network's input."""
    resize: Literal["pillow", "opencv", "torch", "detectron2"] = "pillow"
    """Who scales photographs: antialiased bytes (the last too), plain bytes, or floats; each rounds sizes its way."""
    size_divisor: Width = 32
    """Inputs are padded to a multiple of this; 1: not at all."""
    inclusive_corners: bool = True
    """A box ends at its last pixel, not after it: width = x2 - x1 + 1 in areas, overlaps, deltas and clipping."""
    anchors: Convention = "detectron"
    """Rounded about the first pixel's middle; about its corner, not rounded; rounded, strides from the input's size."""
    limit_shrinking: bool = False
    """Predicted sizes are limited downwards too, not only upwards (by a factor of 1000 / 16)."""
    ranked_by: Literal["probabilities", "logits"] = "probabilities"
    """What orders proposals; of large logits the probabilities are equal."""
    nms: Convention = "detectron"
    """Group by group, an overlap at the threshold suppresses; all at once, shifted apart; or batched_nms."""
    levels: Literal["detectron", "mmdetection", "torchvision", "detectron2"] = "detectron"
    """Where the 1e-6 (1e-8) lies that keeps a region on the border of two pyramid levels from rounding down."""
    aligned: bool = False
    """RoIAlign shifts its samples by half a pixel."""
    sampling_ratio: Whole = 2
    """RoIAlign's samples along each side of a bin; 0: as many as the bin has feature pixels."""
    background_first: bool = True
    """Class 0 is the background, in boxes and masks too; otherwise it is the classifier's last and nowhere else."""
    smallest_detection: NotNegative = 0.0
    """Detections whose width or height is less (in network-input pixels) are dropped before NMS."""
    fitted: bool = False
    """At the very end boxes are clipped to the photograph once more, and those without width or height dropped."""
    pasting: Literal["detectron", "mmdetection"] = "detectron"
    """Masks are resized to whole-pixel boxes, a pixel of zeros around them; or sampled at exact coordinates."""
    mask_targets: Literal["polygons", "mmdetection", "torchvision"] = "polygons"
    """Outlines drawn at the mask head's resolution; the object's pixels averaged by RoIAlign, thresholded; or not."""
    claims: Literal["best", "own"] = "best"
    """Anchors that an object claims as its best ones learn the object best for them, or the claiming one."""
    smallest_claim: Share = 0.0
    """The least overlap by which an object may claim anchors."""
    boxes_claimed: bool = False
    """The same for regions in the box head: an object's best regions learn that object, not the one nearest to them."""


@dataclass
class Proposals:
    """The region proposal network: anchors, what it learns, and what it proposes."""

    anchor_sizes: tuple[Width, ...] = (32, 64, 128, 256, 512)
    """Anchor sides in network-input pixels: one for each level, or all of them on the only level."""
    anchor_strides: tuple[Width, ...] = (4, 8, 16, 32, 64)
    """The levels' strides."""
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    before_nms: Count = 1000
    """Of each level, so many of the best proposals enter NMS ..."""
    after_nms: Count = 1000
    """... and at most so many leave it."""
    kept: Count = 1000
    """Proposals of an image, of all levels together."""
    nms_threshold: Share = 0.7
    """Overlap (IoU) above which the worse of two proposals is dropped."""
    smallest: NotNegative = 0.0
    """Proposals whose width or height is less are dropped."""
    training_before_nms: Count = 2000
    """before_nms in training."""
    training_after_nms: Count = 2000
    """after_nms in training."""
    training_kept: Count = 2000
    """kept in training."""
    kept_of_batch: bool = True
    """training_kept counts the proposals of all of a process's images together (1000 for each image as published)."""
    inside_only: bool = True
    """Anchors that reach over the image's border are not trained."""
    foreground_iou: Share = 0.7
    """An anchor that overlaps an object by at least this must find it."""
    background_iou: Share = 0.3
    """An anchor that overlaps each object by less than this must find none."""
    samples: Count = 256
    """Anchors of an image that the loss looks at."""
    positive_fraction: Share = 0.5
    """At most this part of them finds something."""
    smooth_l1_beta: NotNegative = 1 / 9
    """Where the box loss turns from quadratic to linear; 0: it never is quadratic."""


@dataclass
class Regions:
    """What the box and mask heads learn."""

    foreground_iou: Share = 0.5
    """A region that overlaps an object by at least this must be classified as it, any other as background."""
    samples: Count = 512
    """Regions of an image that the losses look at."""
    positive_fraction: Share = 0.25
    """At most this part of them is foreground."""
    smooth_l1_beta: NotNegative = 1.0
    """Where the box loss turns from quadratic to linear; 0: it never is quadratic."""
    delta_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    """What the box head's dx, dy, dw, dh are multiplied by."""
    mask_loss_weight: NotNegative = 1.0
    """Weight of the mask loss; the other four have 1."""


@dataclass
class Inference:
    """From answers to results."""

    long_side: Width = 1333
    """A photograph is scaled so that its short side is `short_side`, unless its long side would exceed this."""
    short_side: Width = 800
    """See `long_side`."""
    score_threshold: Share = 0.05
    """Boxes that score this or less are not looked at."""
    nms_threshold: Share = 0.5
    """Overlap (IoU) above which the worse of two boxes of a class is dropped."""
    max_instances: Count = 100
    """How many objects an image may have."""
    mask_threshold: Share = 0.5
    """Where a soft mask becomes foreground."""


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
    """Mask R-CNN (He, Gkioxari, Dollar, Girshick, 2017)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    conventions: Conventions = field(default_factory=Conventions)
    proposals: Proposals = field(default_factory=Proposals)
    regions: Regions = field(default_factory=Regions)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


MMDETECTION = Conventions(
    channels="rgb",
    resize="opencv",
    inclusive_corners=False,
    anchors="mmdetection",
    limit_shrinking=True,
    nms="mmdetection",
    levels="mmdetection",
    aligned=True,
    sampling_ratio=0,
    background_first=False,
    pasting="mmdetection",
    mask_targets="mmdetection",
    claims="own",
    smallest_claim=0.3,
    boxes_claimed=True,
)
TORCHVISION = Conventions(
    channels="rgb",
    resize="torch",
    inclusive_corners=False,
    anchors="torchvision",
    nms="torchvision",
    levels="torchvision",
    smallest_detection=1e-2,
    mask_targets="torchvision",
)
DETECTRON2 = Conventions(
    resize="detectron2",
    inclusive_corners=False,
    anchors="mmdetection",
    ranked_by="logits",
    nms="torchvision",
    levels="detectron2",
    aligned=True,
    sampling_ratio=0,
    background_first=False,
    fitted=True,
    pasting="mmdetection",
)
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
# networks in the manner of Caffe2, of MMDetection and Detectron2
CAFFE = Model(norm_eps=1e-5, mean=(103.53, 116.28, 123.675))
RESNEXT = replace(CAFFE, backbone="resnext101_32x8d", stride_in_1x1=False, std=(57.375, 57.12, 58.395))
GROUP_NORM = replace(CAFFE, stride_in_1x1=False, norm="group", head_norm="group", box_convs=4, box_layers=1)
ABOVE_ZERO = 1e-9  # MMDetection and Detectron2 drop boxes whose width or height is not above 0
EACH_IMAGE = Proposals(
    smallest=ABOVE_ZERO, training_kept=1000, kept_of_batch=False, inside_only=False, smooth_l1_beta=0.0
)


def _benchmark(variant: str, model: Model, steps: int = 90_000, batch_size: int = 16) -> Config:
    """maskrcnn-benchmark's recipe; half the batch takes half the learning rate and twice the steps."""
    return Config(
        variant=variant,
        training=Training(steps=steps, batch_size=batch_size, evaluate_every=0, save_every=2500),
        model=model,
        data=_coco_2014(),
        optimizer=Optimizer(
            name="sgd", lr=0.02 * batch_size / 16, weight_decay=1e-4, norm_and_bias_decay=False, bias_lr_scale=2.0
        ),
        schedule=Schedule(milestones=[steps * 2 / 3, steps * 8 / 9], unit="steps", warmup=500, warmup_ratio=1 / 3),
    )


def _benchmark_c4() -> Config:
    config = _benchmark("r50_c4_1x", Model(neck="c4"), steps=180_000, batch_size=8)
    config.conventions = Conventions(size_divisor=1, sampling_ratio=0)
    config.proposals = Proposals(anchor_strides=(16,), before_nms=6000, training_before_nms=12_000, kept_of_batch=False)
    return config


def _mmdetection(variant: str, model: Model) -> Config:
    return Config(
        variant=variant,
        training=Training(epochs=12, batch_size=16),
        model=model,
        conventions=MMDETECTION if model.std == IMAGENET_STD else replace(MMDETECTION, channels="bgr"),
        proposals=EACH_IMAGE,
        regions=Regions(smooth_l1_beta=0.0),
        data=coco_2017(),
        optimizer=Optimizer(name="sgd", lr=0.02),
        schedule=Schedule(milestones=[8, 11], warmup=500, warmup_ratio=0.001),
    )


def _single_level(config: Config, divisor: int = 32) -> Config:
    """What C4 and DC5 have, at stride 16."""
    config.conventions = replace(config.conventions, size_divisor=divisor)
    config.proposals = replace(
        config.proposals, anchor_strides=(16,), before_nms=6000, training_before_nms=12_000, training_kept=2000
    )
    return config


def _detectron2(variant: str, model: Model) -> Config:
    """Detectron2's 1x; its other schedules differ in --steps and --schedule.milestones."""
    return replace(
        _mmdetection(variant, model),
        training=Training(steps=90_000, batch_size=16, evaluate_every=0, save_every=2500),
        conventions=DETECTRON2,
        augment=Augment(short_sides=(640, 672, 704, 736, 768, 800)),
        schedule=Schedule(milestones=[60_000, 80_000], unit="steps", warmup=1000, warmup_ratio=0.001),
    )


def _torchvision(variant: str, model: Model) -> Config:
    return replace(
        _mmdetection(variant, replace(model, stride_in_1x1=False, mean=IMAGENET_MEAN, std=IMAGENET_STD)),
        training=Training(epochs=26, batch_size=16),
        conventions=TORCHVISION,
        proposals=Proposals(smallest=1e-3, kept_of_batch=False, inside_only=False),
        regions=Regions(smooth_l1_beta=1 / 9),
        schedule=Schedule(milestones=[16, 22], warmup=1000, warmup_ratio=0.001),
    )


def _coco_2014() -> Data:
    """coco_2014_train and coco_2014_valminusminival together, scored on coco_2014_minival."""
    images, annotations = "datasets/coco", "datasets/coco/annotations"
    return Data(
        train=Images(
            [f"{images}/train2014", f"{images}/val2014"],
            [f"{annotations}/instances_train2014.json", f"{annotations}/instances_valminusminival2014.json"],
        ),
        val=Images([f"{images}/val2014"], [f"{annotations}/instances_minival2014.json"]),
        keep_empty=False,
    )


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=16, batch_size=8, evaluate_every=8),
        model=Model(
            backbone="resnet10",
            stride_in_1x1=False,
            norm="group",
            frozen_stages=-1,
            fpn_channels=64,
            box_channels=256,
            mask_channels=64,
            mask_depth=2,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        conventions=replace(TORCHVISION, resize="opencv", aligned=True, sampling_ratio=1, mask_targets="polygons"),
        proposals=Proposals(
            anchor_sizes=(16, 32, 64, 96, 160),
            before_nms=300,
            after_nms=300,
            kept=150,
            smallest=1e-3,
            training_before_nms=300,
            training_after_nms=300,
            training_kept=150,
            kept_of_batch=False,
            inside_only=False,
            samples=128,
        ),
        regions=Regions(samples=64, smooth_l1_beta=1 / 9),
        test=Inference(long_side=192, short_side=192),
        augment=Augment(long_side=192, short_sides=(128, 144, 160, 176, 192)),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=10.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


_ALL = (
    _shapes(),
    replace(_shapes(), variant="small"),  # for own data (--data), which says sizes and steps
    _benchmark_c4(),
    _benchmark("r50_fpn_1x", Model()),
    _benchmark("r101_fpn_1x", Model(backbone="resnet101")),
    _benchmark(
        "x101_32x8d_fpn_1x", Model(backbone="resnext101_32x8d", stride_in_1x1=False), steps=180_000, batch_size=8
    ),
    _mmdetection(
        "mmdet_r50_fpn",
        Model(stride_in_1x1=False, norm="batch", norm_eps=1e-5, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
    _mmdetection("mmdet_r50_caffe_fpn", CAFFE),
    _single_level(_mmdetection("mmdet_r50_caffe_c4", replace(CAFFE, neck="c4"))),
    _single_level(_mmdetection("mmdet_r50_caffe_dc5", replace(CAFFE, neck="dc5"))),
    _mmdetection("mmdet_r50_fpn_gn", GROUP_NORM),
    _mmdetection("mmdet_x101_32x8d_fpn", RESNEXT),
    _detectron2("detectron2_r50_fpn", CAFFE),
    _single_level(_detectron2("detectron2_r50_c4", replace(CAFFE, neck="c4")), divisor=1),
    _single_level(_detectron2("detectron2_r50_dc5", replace(CAFFE, neck="dc5")), divisor=1),
    _detectron2("detectron2_r50_fpn_gn", GROUP_NORM),
    _detectron2("detectron2_x101_32x8d_fpn", RESNEXT),
    _torchvision("torchvision_r50_fpn", Model()),
    # what torchvision trains from a backbone's weights; only its COCO weights are without the epsilon
    _torchvision("torchvision_r50_fpn_imagenet", Model(norm_eps=1e-5)),
    _torchvision(
        "torchvision_r50_fpn_v2",
        Model(norm="live_batch", norm_eps=1e-5, head_norm="live_batch", proposal_convs=2, box_convs=4, box_layers=1),
    ),
)
VARIANTS: dict[str, Config] = {each.variant: each for each in _ALL}
