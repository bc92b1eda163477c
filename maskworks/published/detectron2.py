"""What files of Detectron2, and of the projects on its ground, have in common: names, and what a config.yaml says."""

from typing import Any

from maskworks.published.origin import Origin, Said
from maskworks.published.reading import Settings, flag, one_of, refuse_others, said, three_numbers, whole_number
from maskworks.published.renaming import Rules

RESNET: Rules = [
    (r"^backbone\.(bottom_up\.)?(stem\.)?", "backbone."),
    *[(rf"^backbone\.res{stage}\.", f"backbone.layer{stage - 1}.") for stage in (2, 3, 4, 5)],
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"^(backbone\..*)conv(\d)\.norm\.", r"\1bn\2."),
    (r"\.conv2_offset\.", ".conv2.offset."),
]
# what is done here; which of the norms it is, the weights tell
TYPES: dict[str, tuple[Any, ...]] = {
    "MODEL.BACKBONE.NAME": ("build_resnet_fpn_backbone",),
    "MODEL.FPN.NORM": ("",),
    "MODEL.FPN.FUSE_TYPE": ("sum",),
    "MODEL.RESNETS.RES5_DILATION": (1,),
    "TEST.AUG.ENABLED": (False,),
}


def channels(value: Any) -> str:
    return one_of("rgb", "bgr")(value.lower() if isinstance(value, str) else value)  # type: ignore[no-any-return]


SETTINGS: Settings = {
    "model.channels": (channels, ("INPUT.FORMAT",)),
    "model.mean": (three_numbers, ("MODEL.PIXEL_MEAN",)),
    "model.std": (three_numbers, ("MODEL.PIXEL_STD",)),
    "model.stride_in_1x1": (flag, ("MODEL.RESNETS.STRIDE_IN_1X1",)),
    "test.short_side": (whole_number, ("INPUT.MIN_SIZE_TEST",)),
    "test.long_side": (whole_number, ("INPUT.MAX_SIZE_TEST",)),
}


def of_detectron2(
    origin: Origin, types: dict[str, tuple[Any, ...]], settings: Settings, system: str
) -> dict[str, Said]:
    """Our settings, as a config.yaml gives them; `types` and `settings` are those of the model beyond its backbone."""
    refuse_others(origin, TYPES | types, system)
    return said(origin, SETTINGS | settings)
