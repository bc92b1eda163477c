"""The relation head's names in the original's checkpoints -> names here, and the settings that their shapes tell."""

from collections.abc import Mapping

from torch import Tensor

from maskworks.published.renaming import Rules, count
from refinemask_psg.psg.config import PSG_PREDICATES, Relations

HEAD = "roi_head.relationship_head."
RELATION_RULES: Rules = [
    (r"^roi_head\.rela_cls_embed\.", "scene_graph.relation_head.class_embedding."),
    (r"^roi_head\.relationship_head\.fc_input\.", "scene_graph.relation_head.input."),
    (r"^roi_head\.relationship_head\.fc_output\.", "scene_graph.relation_head.output."),
    (r"^roi_head\.relationship_head\.cls_q\.", "scene_graph.relation_head.subject."),
    (r"^roi_head\.relationship_head\.cls_k\.", "scene_graph.relation_head.object."),
    (r"^roi_head\.relationship_head\.model\.", "scene_graph.relation_head.bert."),
]
# in the checkpoints, but no part of what they compute
RELATION_UNUSED = r"roi_head\.relationship_head\.model\.(embeddings\.(word_embeddings|position_ids)|pooler)\b.*"


def relation_settings(state: Mapping[str, Tensor]) -> Relations:
    """The head that a published checkpoint has; head "none" if it has none."""
    if f"{HEAD}cls_q.bias" not in state:
        return Relations(head="none")
    pairs = len(state[f"{HEAD}cls_q.bias"]) // len(PSG_PREDICATES)
    hidden = len(state[f"{HEAD}fc_input.0.bias"])
    layers = count(state, r"roi_head\.relationship_head\.model\.encoder\.layer\.(\d+)\..+")
    if not layers:
        return Relations(head="pairs", hidden=hidden, pair_channels=pairs)
    return Relations(
        head="bert",
        layers=layers,
        hidden=hidden,
        attention_heads=hidden // 64,  # as in every BERT; the weights do not say
        intermediate=len(state[f"{HEAD}model.encoder.layer.0.intermediate.dense.bias"]),
        token_types=len(state[f"{HEAD}model.embeddings.token_type_embeddings.weight"]),
        positions=len(state[f"{HEAD}model.embeddings.position_embeddings.weight"]),
        pair_channels=pairs,
    )
