"""Every setting of RefineMask and its relatives, its default, and the published variants."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Decay, NotNegative, Positive, Share, Whole, WholeOrUnset, Width
from common.run.settings import Data, Images, Optimizer, Schedule, Training, coco_2017
from refinemask_psg.psg.config import Relations

CASCADE_STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
Body = (
    Literal["resnet10", "resnet50", "resnet101", "resnext101_32x4d", "resnext101_32x8d", "resnext101_64x4d"]
    | Literal["swin_tiny", "swin_small"]
)


@dataclass
class Model:
    """The network and what it is trained for."""

    backbone: Body = "resnet50"
    """torchvision's ResNets (resnet10 is resnet18 with one block for each stage), or Swin-T or -S."""
    composite: bool = False
    """Two Swins, the second fed by the first (CBNetV2); both are trained, the second predicts."""
    norm: Literal["frozen_batch", "group"] = "frozen_batch"
    """A ResNet's normalisation: batch norm with fixed statistics (pretrained), or group norm (from scratch)."""
    stride_in_1x1: bool = False
    """A ResNet's bottlenecks halve the resolution in their first 1x1 convolution (Caffe), not in the 3x3."""
    deformable: Literal["none", "v1", "v2"] = "none"
    """Deformable 3x3 convolutions in a ResNet's last three stages; v2 modulates them."""
    frozen_stages: WholeOrUnset = 1
    """The stem and so many stages of a ResNet are not trained; -1: all of it is."""
    drop_path: Decay = 0.0
    """How often Swin's last block is left out in training; earlier blocks less often."""
    absolute_positions: bool = False
    """Swin adds a learned embedding of each patch's position."""
    checkpoint_backbone: bool = False
    """Compute Swin's blocks again in the backward pass instead of keeping their activations."""
    fpn_channels: Width = 256
    """Width of the feature pyramid."""
    fpn_upsampling: Literal["nearest", "bilinear"] = "nearest"
    """How the pyramid's coarser levels are added to the finer ones; published weights fit only one of them."""
    assistant_weight: NotNegative = 0.5
    """Weight of the losses on a composite backbone's first pyramid."""
    anchor_scale: Width = 8
    """Side of a square anchor, in its level's strides."""
    finest_scale: Width = 56
    """Regions below twice this side take their features from P2, below four times from P3, ..."""
    rpn_samples: Count = 256
    """Anchors of an image that the proposal losses look at, at most half of them positive."""
    rpn_sampling: Literal["random", "even"] = "random"
    """Which anchors: any, or every so many-th (for comparisons)."""
    proposals_before_nms: Count = 2000
    """Proposals of each level that enter NMS in training ..."""
    proposals: Count = 1000
    """... and how many of an image are left after it."""
    box_ious: tuple[Share, ...] = (0.5,)
    """Overlap that makes a proposal an object, for each stage of the box heads; several make a cascade."""
    box_stds: tuple[tuple[Positive, Positive, Positive, Positive], ...] = CASCADE_STDS[:1]
    """What each stage's deltas are divided by: x, y, width, height."""
    box_stage_weights: tuple[NotNegative, ...] = (1.0,)
    """Weight of each stage's losses; the masks, which only the last stage has, get their sum."""
    box_class_agnostic: bool = False
    """One box for each proposal instead of one for each class."""
    box_channels: Width = 1024
    """Width of the box heads' two layers."""
    box_class_weight: NotNegative = 1.0
    """Weight of the classification loss."""
    box_loss: Literal["l1", "smooth_l1", "giou"] = "l1"
    """L1 distance of the deltas, quadratic below 1 if smooth, or generalised IoU of the boxes (arXiv 1902.09630)."""
    box_loss_weight: NotNegative = 1.0
    """Weight of the box loss."""
    box_samples: Count = 512
    """Proposals of an image that the box losses look at, at most a quarter of them positive."""
    box_low_quality: bool = True
    """An object claims the proposal that overlaps it best, even if another object overlaps that one more."""
    sampling: Literal["random", "hard", "even"] = "random"
    """Which proposals: any, those with the highest loss (arXiv 1604.03540), or every so many-th."""
    mask_head: Literal["refine", "plain"] = "refine"
    """RefineMask's head in stages, or Mask R-CNN's."""
    mask_heads: Whole = 1
    """Several heads' probabilities are averaged (MMDetection's Cascade Mask R-CNN has three); 0: boxes only."""
    mask_channels: Width = 256
    """Width of the mask head; each refinement stage halves it."""
    mask_final_agnostic: bool = False
    """RefineMask's last stage draws one mask for all classes, as for LVIS."""
    mask_stage_weights: tuple[NotNegative, ...] = (0.25, 0.5, 0.75, 1.0)
    """Weight of the instance loss at 14, 28, 56 and 112 pixels."""
    mask_semantic_weight: NotNegative = 1.0
    """Weight of the mask head's loss of foreground against background."""
    mask_loss_weight: NotNegative = 1.0
    """Weight of all mask losses."""
    mask_targets: Literal["polygons", "bitmaps"] = "polygons"
    """Whether an object's outlines are drawn into each proposal, or its mask's pixels averaged."""
    semantic_head: bool = False
    """U-2-Net's stages on P2 say each pixel's class, things and stuff."""
    semantic_channels: Width = 512
    """Width of its deepest stages."""
    semantic_weights: str = ""
    """Start them from this file, the published u2net.pth."""
    semantic_weight: NotNegative = 2.5
    """Weight of their loss."""
    conventions: Literal["mmdetection", "detectron2"] = "mmdetection"
    """Detectron2 scales photographs by Pillow, ranks proposals by logits, lets boxes shrink at will, averages a
    cascade's probabilities instead of its logits, and drops detections without width or height."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colours in the network's input."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from the values 0 to 255, in that order."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """What they are divided by then."""
    pad_before_normalising: bool = False
    """Padding is black instead of 0 after normalisation (wangqixun/psg)."""


@dataclass
class Inference:
    """From answers to results."""

    long_side: Width = 1333
    """A photograph is scaled so that its long side is at most this ..."""
    short_side: Width = 800
    """... and its short side at most this."""
    proposals_before_nms: Count = 1000
    """Proposals of each level that enter NMS ..."""
    proposals: Count = 1000
    """... and how many of an image are left after it."""
    proposal_nms: Share = 0.7
    """Overlap at which NMS drops a proposal."""
    score_threshold: Share = 0.05
    """Lower class scores are not looked at."""
    nms: Share = 0.5
    """Overlap at which NMS drops a detection of the same class."""
    max_instances: Count = 100
    """How many detections an image may have."""
    mask_threshold: Share = 0.5
    """Where a soft mask becomes foreground."""
    nms_in: Literal["photograph", "input"] = "photograph"
    """Whose pixels NMS measures boxes in: MMDetection 2 the photograph's, MMDetection 3 the network input's."""
    drop_empty_proposals: bool = False
    """Proposals that clipping leaves without width or height are dropped, as MMDetection 3 does."""


@dataclass
class Augment:
    """What training does to the photographs."""

    long_side: Width = 1333
    """Longest long side after scaling."""
    short_sides: tuple[Width, ...] = (800,)
    """The short side is drawn from these."""
    flip: Share = 0.5
    """How often an image is mirrored."""
    crop: Share = 0.0
    """How often an image is first scaled to one of `crop_short_sides`, then cropped."""
    crop_short_sides: tuple[Width, ...] = (400, 500, 600)
    """Short sides before cropping."""
    crop_sides: tuple[Width, Width] = (384, 600)
    """Smallest and largest side of a crop."""
    colours: bool = False
    """Change brightness, contrast, saturation and hue."""


@dataclass
class Config:
    """RefineMask (Zhang et al., 2021), on ResNets or CBNetV2's composite Swin."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    relations: Relations = field(default_factory=Relations)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _data(train: tuple[str, str], val: tuple[str, str]) -> Data:
    """A folder of photographs and a file of annotations each, under datasets/."""
    own = [Images([f"datasets/{images}"], [f"datasets/{file}"]) for images, file in (train, val)]
    return Data(train=own[0], val=own[1], keep_empty=False)


def _refinemask(variant: str, backbone: Literal["resnet50", "resnet101"], epochs: int) -> Config:
    """RefineMask's recipe: one scale, 12 or 24 epochs."""
    return Config(
        variant=variant,
        training=Training(epochs=epochs, batch_size=16),
        model=Model(backbone=backbone, box_class_weight=2.0, box_loss_weight=2.0),
        data=coco_2017(),
        optimizer=Optimizer(name="sgd", lr=0.02, clip=35.0),
        schedule=Schedule(milestones=[epochs * 2 // 3, epochs * 11 // 12], warmup_ratio=0.001),
    )


def _cityscapes() -> Config:
    """RefineMask's recipe for Cityscapes: 8 classes, photographs at their own size, 64 epochs of 8 images a step."""
    config = _refinemask("refinemask_r50_cityscapes", "resnet50", 64)
    config.model.box_loss = "smooth_l1"
    config.training.batch_size, config.optimizer.lr, config.schedule.milestones = 8, 0.01, [56]
    config.test = Inference(long_side=2048, short_side=1024)
    config.augment = Augment(long_side=2048, short_sides=tuple(range(800, 1025)))
    photographs, objects = "cityscapes/leftImg8bit", "cityscapes/annotations/instancesonly_filtered_gtFine"
    config.data = _data(
        (f"{photographs}/train", f"{objects}_train.json"), (f"{photographs}/val", f"{objects}_val.json")
    )
    return config


def _lvis(variant: str, backbone: Literal["resnet50", "resnet101"]) -> Config:
    """RefineMask's recipe for LVIS 1.0: 1203 classes, many instances with low scores, the finest masks of no class."""
    config = _refinemask(variant, backbone, 12)
    config.model.mask_final_agnostic = True
    config.test = Inference(score_threshold=1e-4, max_instances=300)
    config.augment = Augment(short_sides=tuple(range(640, 801, 32)))
    lvis = "lvis/annotations/lvis_v1"
    config.data = _data(("lvis", f"{lvis}_train.json"), ("lvis", f"{lvis}_val.json"))
    return config


def _composite_swin(variant: str, model: Model) -> Config:
    """CBNetV2's recipe: 36 epochs of AdamW on many scales and crops."""
    return Config(
        variant=variant,
        training=Training(epochs=36, batch_size=16),
        model=replace(
            model, backbone="swin_tiny", composite=True, frozen_stages=-1, drop_path=0.2, mask_targets="bitmaps"
        ),
        augment=Augment(short_sides=tuple(range(480, 801, 32)), crop=0.5),
        data=coco_2017(),
        optimizer=Optimizer(name="adamw", lr=1e-4, weight_decay=0.05),
        schedule=Schedule(milestones=[27, 33], warmup_ratio=0.001),
    )


CASCADE = Model(
    fpn_upsampling="bilinear",
    box_ious=(0.5, 0.6, 0.7),
    box_stds=CASCADE_STDS,
    box_stage_weights=(1.0, 0.5, 0.25),
    box_samples=384,
    box_low_quality=False,
)


def _mmdet_swin(variant: str, backbone: Literal["swin_tiny", "swin_small"]) -> Config:
    """MMDetection 3's Mask R-CNN on a single Swin."""
    config = _composite_swin(variant, Model(mask_head="plain"))
    config.model.composite, config.model.backbone = False, backbone
    return replace(config, test=Inference(nms_in="input", drop_empty_proposals=True))


def _mmdet_cascade() -> Config:
    """MMDetection 3's Cascade Mask R-CNN. It predicts as that does; in training, its mask heads see the last stage."""
    model = replace(CASCADE, fpn_upsampling="nearest", box_samples=512, box_class_agnostic=True)
    model.mask_head, model.mask_heads = "plain", 3
    config = _refinemask("mmdet_cascade_mask_rcnn_r50_1x", "resnet50", 12)
    return replace(config, model=model, test=Inference(nms_in="input", drop_empty_proposals=True))


def _mmdet_caffe_cascade() -> Config:
    """The same on a ResNet in the manner of Caffe: BGR, not divided, strides in the 1x1 convolutions."""
    config = _mmdet_cascade()
    model = replace(
        config.model, stride_in_1x1=True, channels="bgr", mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0)
    )
    return replace(config, variant="mmdet_cascade_mask_rcnn_r50_caffe_1x", model=model)


def _detectron2_cascade(variant: str, epochs: int) -> Config:
    """Detectron2's Cascade Mask R-CNN: in the manner of Caffe, with one mask head on the last boxes."""
    config = _mmdet_caffe_cascade()
    config.training.epochs = epochs
    stds = tuple((x, x, size, size) for x, size in ((1 / 10, 1 / 5), (1 / 20, 1 / 10), (1 / 30, 1 / 15)))
    model = replace(config.model, mask_heads=1, box_stds=stds, conventions="detectron2")
    return replace(config, variant=variant, model=model)


def _psg(variant: str, head: Literal["bert", "pairs"]) -> Config:
    """wangqixun/psg: the cascade on small photographs, a semantic and a relation head."""
    model = replace(
        CASCADE,
        absolute_positions=True,
        box_loss="giou",
        box_loss_weight=10.0,
        box_samples=256,
        box_low_quality=True,
        sampling="hard",
        mask_loss_weight=0.5,
        semantic_head=True,
        pad_before_normalising=True,
    )
    config = _composite_swin(variant, model)
    # scene graphs only look at instances with this score: fewer masks are computed
    config.test = Inference(long_side=666, short_side=400, score_threshold=0.3, max_instances=200)
    config.augment = Augment(long_side=800, short_sides=tuple(range(200, 701)), colours=True)
    config.optimizer.clip = 35.0
    config.data = _data(("coco", "psg/psg_tra.json"), ("coco", "psg/psg_val.json"))
    config.relations = Relations(head=head)
    return config


def _psg_shapes() -> Config:
    """Scene graphs of the built-in data set; nothing is mirrored, as "left of" is one of its predicates."""
    config = _shapes()
    config.test.score_threshold = 0.3
    config.augment.flip = 0.0
    model = replace(config.model, mask_targets="bitmaps", semantic_head=True, semantic_channels=64, semantic_weight=1.0)
    bert = Relations(layers=2, hidden=128, attention_heads=4, intermediate=256, positions=2, dropout=0.0)
    relations = replace(bert, head="bert", things=8, pair_channels=32, loss_weight=1.0)
    return replace(config, variant="psg_shapes", model=model, relations=relations)


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
            anchor_scale=4,
            finest_scale=28,
            proposals_before_nms=200,
            proposals=100,
            box_channels=256,
            box_class_weight=2.0,
            box_loss_weight=2.0,
            box_samples=32,
            mask_channels=32,
        ),
        test=Inference(long_side=192, short_side=192, proposals_before_nms=100, proposals=50, max_instances=30),
        augment=Augment(long_side=192, short_sides=(128, 144, 160, 176, 192)),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=10.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


VARIANTS: dict[str, Config] = {
    config.variant: config
    for config in (
        _shapes(),
        _refinemask("refinemask_r50_1x", "resnet50", 12),
        _refinemask("refinemask_r50_2x", "resnet50", 24),
        _refinemask("refinemask_r101_1x", "resnet101", 12),
        _refinemask("refinemask_r101_2x", "resnet101", 24),
        _cityscapes(),
        _lvis("refinemask_r50_lvis", "resnet50"),
        _lvis("refinemask_r101_lvis", "resnet101"),
        _composite_swin("mask_rcnn_cbv2_swin_tiny", Model(mask_head="plain")),
        _composite_swin("refine_cbv2_swin_tiny_mask_rcnn", Model(fpn_upsampling="bilinear", box_samples=384)),
        _composite_swin("refine_cbv2_swin_tiny_cascade_last", CASCADE),
        _mmdet_swin("mmdet_mask_rcnn_swin_tiny", "swin_tiny"),
        _mmdet_swin("mmdet_mask_rcnn_swin_small", "swin_small"),
        _mmdet_cascade(),
        _mmdet_caffe_cascade(),
        _detectron2_cascade("detectron2_cascade_mask_rcnn_r50_1x", 12),
        _detectron2_cascade("detectron2_cascade_mask_rcnn_r50_3x", 37),
        _psg("psg", "bert"),
        _psg("psg_pairs", "pairs"),
        _psg_shapes(),
    )
}
