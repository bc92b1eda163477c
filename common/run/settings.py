"""The settings that every model's configuration shares; each package's `Config` is made of these and its own."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from common.run.ranges import Batch, Count, Decay, NotNegative, Seed, Share, Whole, WholeOrUnset, Workers


@dataclass
class Training:
    """How a run goes; these flags have no prefix."""

    run: str = ""
    """Folder the run writes to; empty: runs/<package>/<variant> under the current folder."""
    resume: bool = False
    """Go on with the run in that folder, where it stopped."""
    overwrite: bool = False
    """Evaluate once more what was evaluated before: eval.py replaces the files that it wrote then."""
    weights: str = ""
    """Start from this file (a checkpoint, or a torchvision backbone's state dict) or name; what eval.py evaluates."""
    seed: Seed = 0
    """All randomness follows from this number, the epoch and the image's index."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass; fp16 scales the loss."""
    epochs: Whole = 12
    """Passes over the training images. Given without --steps it counts, whatever the variant's steps are."""
    steps: Whole = 0
    """Stop after so many optimizer steps; 0: when the epochs are done."""
    start_step: WholeOrUnset = 0
    """Begin the schedule at this step: to go on from another program's checkpoint (--weights)."""
    minutes: NotNegative = 0.0
    """Make as many steps as there is time for, evaluations included, and end the schedule there; 0: no limit."""
    patience: Whole = 0
    """End the run after so many evaluations without a better score; 0: never."""
    batch_size: Batch = 16
    """Images for each optimizer step, over all processes and accumulated batches; auto: as many as fit the GPU."""
    fit_batch_size: bool = False
    """What --batch-size auto says: find out how many pictures a GPU has memory for, and train with that."""
    accumulate: Batch = 1
    """Split each step's images into so many batches whose gradients add up."""
    workers: Workers = -1
    """Processes that load images, for each training process; 0: load in the training process; -1: what is to spare."""
    save_every: Count = 500
    """Optimizer steps between resume points."""
    evaluate_every: Whole = 1
    """Epochs between evaluations; the last epoch is always evaluated; 0: only the last."""
    max_detections: Count = 100
    """How many detections of each class in an image COCO's score looks at; 100 in published scores."""
    limit: Whole = 0
    """Use only the first so many images of each data set; 0: all."""
    compile: bool = False
    """Compile the network with torch.compile."""
    report: bool = True
    """Write report.html at the end of the run."""
    not_finite: Literal["stop", "skip"] = "stop"
    """What a loss that is no number does: stop the run and name the images, or skip the step."""


@dataclass
class Images:
    """One data set: COCO-format annotation files and the folders their images are in."""

    images: list[str] = field(default_factory=list)
    """Image folders: one for all annotation files, or one for each."""
    annotations: list[str] = field(default_factory=list)
    """COCO-format annotation files; several make a union. None: the built-in data set."""


@dataclass
class Data:
    """Where the images and annotations are."""

    path: Annotated[str, tyro.conf.arg(aliases=["--data"])] = ""
    """Own data: a folder or file of COCO, YOLO, labelme, Pascal VOC, label images, Hugging Face's imagefolder, MDETR's
    captions; for upsnet COCO panoptic, for pose2seg COCO key points, for scene graphs PSG's; it is found out which.
    Instead of the four settings of train and val."""
    val_fraction: Share = 0.2
    """Without validation data at that path, this part of the pictures is it, chosen by a hash of their names."""
    group_by: str = ""
    """A regular expression; pictures in whose names it, or its first group, finds the same stay together."""
    tile: Whole = 0
    """Pictures above so many pixels a side are cut into tiles of that size, to train, evaluate and predict; 0: none."""
    overlap: Whole = 128
    """Pixels that neighbouring tiles share."""
    rectangles: bool = False
    """Objects at that path that have only a box get its rectangle for a mask."""
    check: Literal["stop", "say"] = "stop"
    """What is done about faults of the data at that path that would waste a training."""
    recipe: Annotated[Literal["", "finetune", "published"], tyro.conf.arg(aliases=["--recipe"])] = ""
    """finetune: steps, learning rate and evaluations follow from the data, the default with --data; published: as the
    variant has them."""
    augment: Annotated[Literal["published", "light", "strong"], tyro.conf.arg(aliases=["--augment"])] = "published"
    """What is done to training pictures before they are scaled: published: what the variant does; light: other scales
    and colours, taken with --data where pictures are seen often; strong: more so, with objects of others pasted."""
    train: Images = field(default_factory=Images)
    val: Images = field(default_factory=Images)
    seed: Seed = 0
    """Seed of the built-in data set; another seed gives another data set."""
    keep_empty: bool = True
    """Train on images without objects too."""


def coco_2017(kind: Literal["instances", "panoptic"] = "instances") -> Data:
    """COCO's photographs of 2017 that show something, under datasets/, as most published recipes train on them."""
    train, val = (
        Images([f"datasets/coco/{split}2017"], [f"datasets/coco/annotations/{kind}_{split}2017.json"])
        for split in ("train", "val")
    )
    return Data(train=train, val=val, keep_empty=False)


@dataclass
class Optimizer:
    """The optimizer and what is done to the gradients."""

    name: Literal["sgd", "adamw", "apex_sgd", "apex_adam"] = "sgd"
    """apex_*: apex's fused optimizers, if apex is installed."""
    lr: NotNegative = 0.01
    """Learning rate for `batch_size` images."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Running averages of Adam."""
    weight_decay: NotNegative = 1e-4
    """Weight decay."""
    norm_and_bias_decay: bool = True
    """Decay the parameters of normalisation layers and biases as well."""
    backbone_lr_scale: NotNegative = 1.0
    """The backbone's learning rate, as a factor of lr."""
    bias_lr_scale: NotNegative = 1.0
    """The biases' learning rate, as a factor of lr."""
    clip: NotNegative = 0.0
    """Largest norm of all gradients together; 0: no clipping."""
    ema: Decay = 0.0
    """Decay of the moving average of the weights that is evaluated and saved; 0: none."""


@dataclass
class Schedule:
    """How the learning rate changes."""

    name: Literal["step", "cosine"] = "step"
    """step: multiplied by `factor` after each of `milestones`; cosine: down to 0 at the last step."""
    milestones: list[NotNegative] = field(default_factory=list)
    """Epochs (or optimizer steps) after which the learning rate drops."""
    factor: NotNegative = 0.1
    """What it is multiplied by."""
    warmup: Whole = 500
    """Optimizer steps of linear warm-up."""
    warmup_ratio: Share = 0.01
    """The first step's learning rate, as a fraction."""
    unit: Literal["epochs", "steps"] = "epochs"
    """What `milestones` counts."""
