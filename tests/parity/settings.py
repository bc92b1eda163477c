"""What a spec states: each entry that decides results is followed, or refused by name, never passed over."""

from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from common.errors import UserError

Fixed = Mapping[str, tuple[Any, ...]]  # what has one value here, or few
PROSE = 3  # so many words explain; fewer may be a setting
# what tells of a case, or is read before an adapter gets it
OF_ANY_CASE = (
    *("system", "case", "images", "state_dict.*", "overrides.*", "inputs", "inputs.*", "outputs.*"),
    *("source", "source.*", "*_note", "meaning", "task", "timing", "timing.*", "versions.*", "facts.*", "statistics.*"),
    *("tolerance", "tolerance.*", "sample_limit", "gradient_spread.*", "meta.*", "settings.img_meta.*", "extra"),
    *("no_gradient", "parameters_without_gradient", "train_num_pos", "settings.scale_factor", "settings.*published*"),
)


class Noted(dict[str, Any]):
    """A table of a spec that notes which of its entries were read."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__({name: noted(value) for name, value in table.items()})
        self.unread = set(self)

    def __getitem__(self, name: str) -> Any:
        self.unread.discard(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.unread.discard(name)
        return super().get(name, default)

    def items(self) -> Any:
        self.unread.clear()
        return super().items()


def noted(value: Any) -> Any:
    if isinstance(value, list):
        return [noted(each) for each in value]
    return Noted(value) if isinstance(value, Mapping) else value


def unread(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """What nobody read of a table, or of the tables in a list: dotted names and values."""
    if isinstance(value, list):
        for each in value:
            yield from unread(each, where)
    elif isinstance(value, Noted):
        for name, each in dict.items(value):
            path = f"{where}.{name}" if where else name
            tables = isinstance(each, Noted) or (isinstance(each, list) and any(isinstance(one, Noted) for one in each))
            if tables:
                yield from unread(each, path)
            elif name in value.unread:
                yield path, each


def passed_over(spec: Noted, fixed: Fixed, information: Collection[str]) -> str:
    """What of a spec was not followed though it may decide results, in one line; "" where there is nothing."""
    for path, value in unread(spec):
        if isinstance(value, str) and len(value.split()) >= PROSE and path != "train_batch":
            continue
        allowed = next((values for pattern, values in fixed.items() if fnmatchcase(path, pattern)), None)
        if allowed is not None and value not in allowed:
            return f"{path} is {value!r}, and can only be {' or '.join(map(repr, allowed))} here"
        known = any(fnmatchcase(path, pattern) for pattern in (*OF_ANY_CASE, *information))
        if allowed is None and not known:
            return f"{path} is {value!r}, which this adapter does not follow"
    return ""


def one_of(settings: Mapping[str, Any], names: Collection[str], where: str) -> Any:
    """The setting that has one of these names; stated under two of them, it must be the same."""
    values = [settings[name] for name in names if name in settings]
    if not values or any(value != values[0] for value in values):
        raise UserError(f"{where}: exactly one of {', '.join(names)} must be stated")
    return values[0]


# the settings of a detector with two stages, in MMDetection's terms
TWO_STAGES: Fixed = {
    "settings.train_cfg.*.assigner.type": ("MaxIoUAssigner",),
    "settings.train_cfg.*.ignore_iof_thr": (-1,),
    "settings.train_cfg.rpn.assigner.match_low_quality": (True,),
    "settings.train_cfg.rpn.allowed_border": (-1,),
    "settings.train_cfg.rpn.sampler.type": ("RandomSampler",),
    "settings.train_cfg.rpn.sampler.add_gt_as_proposals": (False,),
    "settings.train_cfg.rcnn.sampler.add_gt_as_proposals": (True,),
    "settings.train_cfg.rcnn.mask_size": (28,),
    "settings.train_cfg.*.neg_pos_ub": (-1,),
    "settings.train_cfg.*.pos_weight": (-1,),
    "settings.*_cfg.rpn*.min_bbox_size": (0,),
    "settings.*_cfg.rpn*.nms_across_levels": (False,),
    "settings.*_cfg.*.nms.type": ("nms",),
    "settings.keep_ratio": (True,),
    "settings.preprocess.keep_ratio": (True,),
    "settings.preprocess.pad_divisor": (32,),
}


def check_cap(rpn: Mapping[str, Any]) -> None:
    """Refuses a cap of a level that would come before the cap of all levels."""
    kept = rpn.get("max_per_img", rpn.get("max_num"))
    if rpn.get("nms_post", kept) < kept:
        raise UserError(f"rpn: nms_post is {rpn['nms_post']}, and can't be less than the {kept} kept of all levels")
