"""The settings of scene graphs: the relation head, the panoptic merge, and the names that PSG gives its predicates."""

from dataclasses import dataclass
from typing import Literal

from common.run.ranges import Count, Decay, Depth, NotNegative, Positive, Share, Whole, Width

PSG_PREDICATES = (
    *("over", "in front of", "beside", "on", "in", "attached to", "hanging from", "on back of", "falling off"),
    *("going down", "painted on", "walking on", "running on", "crossing", "standing on", "lying on", "sitting on"),
    *("flying over", "jumping over", "jumping from", "wearing", "holding", "carrying", "looking at", "guiding"),
    *("kissing", "eating", "drinking", "feeding", "biting", "catching", "picking", "playing with", "chasing"),
    *("climbing", "cleaning", "playing", "touching", "pushing", "pulling", "opening", "cooking", "talking to"),
    *("throwing", "slicing", "driving", "riding", "parked on", "driving on", "about to hit", "kicking"),
    *("swinging", "entering", "exiting", "enclosing", "leaning on"),
)


@dataclass
class Relations:
    """From segments to a scene graph."""

    head: Literal["none", "bert", "pairs"] = "none"
    """none: instances only; bert: segments look at each other through BERT's layers; pairs: each pair by itself."""
    predicates: tuple[str, ...] = PSG_PREDICATES
    """What the relations are called; taken from the data set when training starts."""
    things: Whole = 80
    """So many of the classes, the first ones, are things; the others are stuff. Taken from the data set, too."""
    predicate_counts: tuple[Whole, ...] = ()
    """How often the training set has each predicate; the baseline that evaluation prints needs it."""
    bert: str = ""
    """Start from this BERT: a folder with a checkpoint of transformers, or a name on its hub; empty: from scratch."""
    layers: Depth = 6
    """How many of BERT's layers are used."""
    hidden: Width = 768
    """Width of BERT, and of the segments' vectors before they are paired."""
    attention_heads: Width = 12
    """Attention heads in each of BERT's layers."""
    intermediate: Width = 3072
    """Width inside BERT's layers."""
    positions: Width = 512
    """Rows of BERT's table of positions; segments have no order, so all of them use the same row."""
    token_types: Width = 2
    """Rows of BERT's table of token types; segments are of the first."""
    norm_epsilon: Positive = 1e-12
    """Of BERT's layer norms."""
    dropout: Decay = 0.1
    """Dropout inside BERT."""
    pair_channels: Width = 128
    """Width of the vectors whose product says how well a predicate fits a subject and an object."""
    loss_weight: NotNegative = 5.0
    """Weight of the relation loss."""
    max_entities: Count = 30
    """Training uses the first so many segments of an image."""
    max_relations: Count = 100
    """How many relations an image gets; a submission has the first 20."""
    score_threshold: Share = 0.3
    """Instances with a lower score get no segment."""
    freeze_detector: bool = False
    """Train the relation head alone; the detector and the semantic network stay as they are."""
    original_faults: bool = False
    """Do what the original got wrong as well: README, "What is not as in the original"."""
