"""Every setting of GLIP, its default, and the published variants."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import tyro

from common.run.ranges import Count, Decay, Depth, NotNegative, Positive, Share, Whole, WholeOrUnset, Width
from common.run.settings import Data, Optimizer, Schedule, Training, coco_2017

BERT = "bert-base-uncased"  # the vocabulary that all published variants were trained with; it comes with the package
BUILT_IN = "built-in"  # that of the built-in captions


@dataclass
class Model:
    """The image's side of the network, and the head where image and text meet."""

    swin_width: Width = 96
    """Channels of Swin's first stage; each further one has twice as many."""
    swin_depths: tuple[Depth, ...] = (2, 2, 6, 2)
    """Blocks of each stage."""
    swin_heads: tuple[Width, ...] = (3, 6, 12, 24)
    """Attention heads of each stage."""
    window: Width = 7
    """Side of the attention windows."""
    drop_path: Decay = 0.2
    """How often the last block is left out in training; earlier ones less often."""
    frozen_stages: WholeOrUnset = -1
    """0: Swin's patch embedding is not trained; 2, 3, ..: nor are its first 1, 2, .. stages; -1: all of it is."""
    checkpointing: bool = False
    """Compute the activations of Swin, BERT and the dynamic head again in the backward pass, to save memory."""
    channels: Width = 256
    """Width of the feature pyramid and the head."""
    drop_block: Decay = 0.3
    """Share of the pyramid's places that are blanked in training, in squares of 3 x 3; 0: none."""
    blocks: Depth = 6
    """Blocks of the dynamic head."""
    groups: Width = 16
    """Groups of the head's group norms."""
    deformable: Literal["torchvision", "sampled"] = "torchvision"
    """Who computes deformable convolutions: torchvision's operator, or grid sampling, which trains four times as fast
    on processors."""
    early_fusion: bool = True
    """Whether image and text attend to each other before each block; without, text is read once for all images."""
    fusion_width: Width = 2048
    """Width of that attention."""
    fusion_heads: Width = 8
    """Its heads."""
    fusion_dropout: Decay = 0.1
    """Dropout on its attention maps."""
    anchor_scale: Positive = 8.0
    """Side of the anchors, in strides of their level."""
    box_scale: Positive = 1.0
    """What predicted deltas are multiplied by at the start of training; each level learns its own factor."""
    alignment_scale: Positive = 1.0
    """What the alignment of places and tokens is multiplied by at the start of training; the factor is learned."""
    head_identity: float = 0.0
    """How much of its input each convolution of the dynamic head passes on unchanged at the start of training."""
    token_loss_weight: NotNegative = 1.0
    """Weight of the focal loss on the alignment of places and tokens."""
    box_loss_weight: NotNegative = 2.0
    """Weight of the GIoU loss."""
    masked_language_weight: NotNegative = 0.0
    """Weight of the masked language model's loss, in which hidden words are guessed; 0: it is switched off."""
    masked_words: Share = 0.15
    """Share of the words that are hidden for it."""
    mean: tuple[float, float, float] = (103.53, 116.28, 123.675)
    """Subtracted from the BGR values."""
    std: tuple[Positive, Positive, Positive] = (57.375, 57.12, 58.395)
    """What they are divided by then."""


@dataclass
class Text:
    """The text's side: vocabulary, BERT, and how class names become captions."""

    vocabulary: str = BERT
    """A WordPiece vocabulary: BERT's or `built-in`, which come with the package, a file or folder, or `hub:NAME` to get
    it from the Hugging Face hub."""
    words: Width = 30522
    """Size of the vocabulary."""
    width: Width = 768
    """Width of BERT."""
    layers: Depth = 12
    """Its layers."""
    heads: Width = 12
    """Its attention heads."""
    inner_width: Width = 3072
    """Width between the two linear layers of each of its layers."""
    positions: Width = 512
    """Places that it has embeddings for."""
    dropout: Decay = 0.1
    """Its dropout in training."""
    embedding_std: NotNegative = 0.02
    """Spread of its word embeddings at the start of training; those of places start with 0.02."""
    max_tokens: Width = 256
    """Longest caption, in tokens; longer class lists are split into several captions."""
    separator: str = ". "
    """What stands between class names."""
    chunk: Whole = 0
    """So many class names in a caption; 0: as many as it holds."""
    prompt_rows: Whole = 0
    """Rows of the trainable prompt that is added to BERT's answer (prompt tuning); 0: none."""


@dataclass
class Inference:
    """From answers to results."""

    conventions: Literal["microsoft", "mmdetection"] = "microsoft"
    """Whose rounding of sizes, order of candidates and measure of overlap to follow."""
    short_side: Width = 800
    """A photograph is scaled to this short side ..."""
    long_side: Width = 1333
    """... unless its long side would exceed this."""
    aggregation: Literal["mean", "max", "onehot"] = "mean"
    """A phrase's score from those of its tokens; onehot: token k is the score of class k."""
    score_threshold: Share = 0.05
    """Places with a lower phrase score are not looked at."""
    max_candidates: Count = 1000
    """How many boxes of each level enter NMS."""
    nms_iou: Share = 0.6
    """Of two boxes of one phrase that overlap more, the better one stays."""
    max_detections: Count = 100
    """How many boxes an image may have, for each caption."""


@dataclass
class Augment:
    """What training does to photographs and captions."""

    long_side: Width = 1333
    """Longest long side after scaling."""
    short_sides: tuple[Width, ...] = (480, 560, 640, 720, 800)
    """The short side is drawn from these."""
    flip: Share = 0.5
    """How often an image is mirrored."""
    shuffle: bool = False
    """Name the classes in a random order in each caption."""
    negatives: WholeOrUnset = -1
    """So many classes at most that are not in the image are named in its caption; -1: all, always."""
    listed: Share = 0.0
    """How often a caption is replaced by the list of its phrases, with phrases of other captions among them."""


@dataclass
class Tuning:
    """Which parameters are trained, and how fast."""

    mode: Literal["full", "frozen_language", "linear_probe", "language", "prompt"] = "full"
    """full: all; frozen_language: all but BERT; linear_probe: the head's last layers; language: BERT only;
    prompt: only a vector for each token that is added to BERT's answer (needs --text.prompt-rows)."""
    language_lr_scale: NotNegative = 0.1
    """BERT's learning rate, as a factor of lr."""


@dataclass
class Config:
    """GLIP: Grounded Language-Image Pre-training (Li et al., 2021)."""

    variant: str = "shapes"
    """The published variant that these settings started from."""
    prompt: str = ""
    """What eval.py looks for: `coco`, a file of names, "person. red cup."; empty: the data set's class names."""
    odinw: str = ""
    """A folder of data sets that eval.py scores one after the other."""
    training: Annotated[Training, tyro.conf.arg(name="")] = field(default_factory=Training)
    model: Model = field(default_factory=Model)
    text: Text = field(default_factory=Text)
    test: Inference = field(default_factory=Inference)
    augment: Augment = field(default_factory=Augment)
    tuning: Tuning = field(default_factory=Tuning)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)


def _published(variant: str, model: Model) -> Config:
    """Fine-tuning on COCO as documented with the original: 24 epochs in batches of 32."""
    return Config(
        variant=variant,
        training=Training(epochs=24, batch_size=32, precision="fp16", evaluate_every=0),
        model=model,
        tuning=Tuning(language_lr_scale=1.0),
        data=coco_2017(),
        optimizer=Optimizer(name="adamw", lr=1e-5, weight_decay=1e-4, bias_lr_scale=2.0, clip=1.0, ema=0.999),
        schedule=Schedule(milestones=[0.67, 0.89], warmup=2000, warmup_ratio=0.001),
    )


def _shapes() -> Config:
    """Small enough to train from scratch on two processor cores in minutes."""
    return Config(
        variant="shapes",
        training=Training(epochs=40, batch_size=8, evaluate_every=20),
        model=Model(
            swin_width=32,
            swin_depths=(1, 1, 2, 1),
            swin_heads=(2, 4, 8, 8),
            window=6,
            drop_path=0.0,
            channels=64,
            drop_block=0.0,
            blocks=1,
            groups=8,
            deformable="sampled",
            early_fusion=False,
            anchor_scale=4.0,
            box_scale=10.0,  # boxes would take long to find their size in so few steps ...
            alignment_scale=8.0,  # ... and words what they name
            head_identity=0.5,
        ),
        text=Text(
            vocabulary=BUILT_IN,
            words=155,
            width=64,
            layers=1,  # a deeper one learns the captions by heart, and reads new ones worse
            heads=2,
            inner_width=128,
            positions=256,
            dropout=0.2,
            embedding_std=1.0,  # words count for more than their places
            chunk=14,
        ),
        test=Inference(short_side=192, long_side=192),
        augment=Augment(long_side=192, short_sides=(144, 160, 176, 192), negatives=12, listed=0.5),
        tuning=Tuning(language_lr_scale=1.0),
        optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.05, norm_and_bias_decay=False, clip=100.0, ema=0.998),
        schedule=Schedule(name="cosine", warmup=50),
    )


_TINY = Model()
_LARGE = Model(
    swin_width=192, swin_depths=(2, 2, 18, 2), swin_heads=(6, 12, 24, 48), window=12, drop_path=0.4, blocks=8
)

VARIANTS: dict[str, Config] = {
    config.variant: config
    for config in (
        _shapes(),
        _published("glip_a_tiny_o365", replace(_TINY, early_fusion=False)),
        _published("glip_tiny_o365", _TINY),
        _published("glip_tiny_goldg", _TINY),
        _published("glip_tiny", _TINY),
        _published("glip_large", _LARGE),
    )
}
