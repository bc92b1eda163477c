"""The relation head of the original's checkpoints: names and sizes."""

import re

import pytest
import torch

from maskworks.published.origin import Origin
from maskworks.published.renaming import Converted, rename
from maskworks.published.whole_files import name_classes
from refinemask_psg import convert as conversion
from refinemask_psg.config import VARIANTS
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.convert import RELATION_RULES, RELATION_UNUSED, relation_settings
from refinemask_psg.psg.scene_graph import SceneGraphHead

THEIRS = {
    "class_embedding": "roi_head.rela_cls_embed",
    "input": "roi_head.relationship_head.fc_input",
    "output": "roi_head.relationship_head.fc_output",
    "subject": "roi_head.relationship_head.cls_q",
    "object": "roi_head.relationship_head.cls_k",
    "bert": "roi_head.relationship_head.model",
}
UNUSED = (
    "roi_head.relationship_head.model.embeddings.word_embeddings.weight",
    "roi_head.relationship_head.model.embeddings.position_ids",
    "roi_head.relationship_head.model.pooler.dense.weight",
    "roi_head.relationship_head.model.pooler.dense.bias",
)


def published_names(head: SceneGraphHead) -> dict[str, str]:
    """The original's name of each of ours."""
    found = {}
    for name in head.state_dict():
        part, _, rest = name.removeprefix("relation_head.").partition(".")
        found[name] = f"{THEIRS[part]}.{rest}"
    return found


@pytest.mark.parametrize(
    "settings",
    [
        Relations(head="bert"),
        Relations(head="bert", layers=2, hidden=128, attention_heads=2, intermediate=300, pair_channels=512),
        Relations(head="pairs", pair_channels=64),
    ],
    ids=["published", "another size", "pairs"],
)
def test_names_and_shapes_tell_the_head(settings):
    with torch.device("meta"):
        head = SceneGraphHead(settings, classes=133)
    names, state = published_names(head), head.state_dict()
    published = {names[name]: value for name, value in state.items()}
    assert relation_settings(published) == settings
    for name, theirs in names.items():
        assert rename(theirs, RELATION_RULES) == f"scene_graph.{name}"
        assert not re.fullmatch(RELATION_UNUSED, theirs)


def test_what_is_in_the_file_but_unused_is_known():
    assert all(re.fullmatch(RELATION_UNUSED, name) for name in UNUSED)


@pytest.mark.parametrize(
    ("variant", "meta", "names", "source"),
    [
        ("psg_pairs", {}, ("person", "rug-merged"), "wangqixun/psg, whose relation head it has"),
        ("psg", {"CLASSES": [f"c{number}" for number in range(133)]}, ("c0", "c132"), "its meta's CLASSES"),
        ("mask_rcnn_cbv2_swin_tiny", {}, ("class 1", "class 133"), "nothing: numbered"),
    ],
)
def test_psgs_classes_are_named_where_nothing_else_says_them_and_the_relation_head_is_of_psg(
    variant, meta, names, source
):
    weights = {"box_heads.0.classes.weight": torch.zeros(134, 1)}
    converted = Converted("wangqixun/psg", VARIANTS[variant], weights, {})
    origin = Origin.read("latest.pth", {"meta": meta})
    found, notes = name_classes("refinemask_psg", conversion, converted, origin)
    assert (found.names[0], found.names[-1]) == names
    assert (found.source, found.ids, bool(notes)) == (source, tuple(range(1, 134)), "nothing" in source)


def test_a_detector_has_no_relation_head():
    assert relation_settings({"roi_head.bbox_head.fc_cls.weight": torch.zeros(1)}).head == "none"


def test_the_published_head_has_the_sizes_of_chinese_roberta():
    with torch.device("meta"):
        head = SceneGraphHead(Relations(head="bert"), classes=133)
    shapes = {name: tuple(value.shape) for name, value in published_names_of(head).items()}
    assert shapes["roi_head.relationship_head.cls_q.weight"] == (56 * 128, 768)
    assert shapes["roi_head.rela_cls_embed.weight"] == (133, 256)
    assert shapes["roi_head.relationship_head.model.encoder.layer.5.output.dense.weight"] == (768, 3072)
    assert shapes["roi_head.relationship_head.model.embeddings.position_embeddings.weight"] == (512, 768)


def published_names_of(head):
    names, state = published_names(head), head.state_dict()
    return {names[name]: value for name, value in state.items()}
