"""The scene graph cases: relation heads, data preparation, submissions and scores."""

from types import ModuleType

from common.errors import UserError
from tests.parity.case import Array, Case
from tests.parity.psg import files as psg_files
from tests.parity.psg import head as psg_head
from tests.parity.psg import scores as psg_scores
from tests.parity.rules import Rule
from tests.parity.settings import Fixed

INPUTS = ()
FIXED: Fixed = {
    "settings.attention": ("none",),  # of a head without it
    "settings.position_ids": ("none",),
    "settings.token_type": ("none", "0"),
    "settings.min_size": (32,),
    "settings.filter_empty_gt": (True,),
    "settings.void": (255,),
    "settings.instance_offset": (1000,),
    "settings.json_indent": (4,),
    "settings.ensure_ascii": (False,),
    "settings.iou_threshold": (0.5,),
    "settings.max_relations_kept": (20,),
}
INFORMATION = (  # follows from the checkpoint, or from the inputs' shapes
    *(f"settings.{name}" for name in ("semantic_channels", "num_predicates", "head", "input_feature_size", "layers")),
    *("settings.hidden", "settings.intermediate", "settings.cls_qk_size"),
    # followed where the case has what they decide
    *("settings.loss_weight", "settings.num_entity_max", "settings.train_metas.*", "settings.infer_meta.*"),
    *(f"settings.{name}" for name in ("num_things", "void_id", "score_threshold", "top_k")),
)


def compute(case: Case, device: str) -> dict[str, Array]:
    computed: dict[str, Array] = part_of(case).compute(case, device)
    return computed


def rule(case: Case, name: str) -> Rule | None:
    found: Rule | None = part_of(case).rule(case, name)
    return found


def part_of(case: Case) -> ModuleType:
    """Which kind of case it is, by its inputs."""
    inputs = case.folder / "inputs"
    if case.spec["state_dict"]:
        return psg_head
    if (inputs / "relation.json").exists():
        return psg_scores
    if (inputs / "psg_train_val.json").exists():
        return psg_files
    raise UserError(f"{case.folder}: none of the kinds of case that are known")
