"""What an MMDetection configuration (2 or 3, as data) says about a model's input and its thresholds."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maskworks.published.origin import Origin, Said, at
from maskworks.published.reading import flag, read_value, three_numbers, whole_number

LVIS_CLASSES = (1203, 1230)  # of versions 1 and 0.5
LVIS_TEST = {"test.score_threshold": 1e-4, "test.max_instances": 300}  # of all its published recipes


def long_and_short(value: Any) -> tuple[int, int]:
    """A test size (1333, 800), in either order; of several sizes there must be one only."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("one pair of whole numbers")
    return max(map(whole_number, value)), min(map(whole_number, value))


def caffe_style(value: Any) -> bool:
    """Whether a ResNet's stride is in its bottlenecks' first, 1x1 convolution."""
    if value not in ("caffe", "pytorch"):
        raise ValueError("'caffe' or 'pytorch'")
    return bool(value == "caffe")


def tested(name: str) -> tuple[str, str]:
    """Where a setting of testing stands: in versions 2 and 3, and in early ones and what stands on them."""
    return f"model.test_cfg.{name}", f"test_cfg.{name}"


def inputs(origin: Origin) -> dict[str, Said]:
    """model.channels, .mean and .std, test.long_side and .short_side, as far as the configuration says them."""
    found = {}
    place, normalise = _normalisation(origin.recipe)
    for name in ("mean", "std"):
        if normalise.get(name) is not None:
            found[f"model.{name}"] = read_value(origin, three_numbers, normalise[name], f"{place}.{name}")
    if found:
        order = "to_rgb" if normalise.get("type") == "Normalize" else "bgr_to_rgb"
        # MMDetection 2 takes True, 3 False where nothing is said
        to_rgb = read_value(origin, flag, normalise.get(order, order == "to_rgb"), f"{place}.{order}")
        found["model.channels"] = Said("rgb" if to_rgb.value else "bgr", to_rgb.source)
    sizes = [step for step in _test_steps(origin.recipe) if step.get("img_scale") or step.get("scale")]
    if sizes:
        key = "img_scale" if sizes[0].get("img_scale") else "scale"
        size = read_value(origin, long_and_short, sizes[0][key], f"the test pipeline's {key}")
        found["test.long_side"], found["test.short_side"] = (Said(side, size.source) for side in size.value)
    return found


def lvis(classes: int) -> dict[str, Said]:
    """The thresholds of LVIS's recipes, for a model with so many classes that tells nothing else."""
    source = f"the published recipes of {classes} classes, LVIS's"
    return {setting: Said(value, source) for setting, value in LVIS_TEST.items()} if classes in LVIS_CLASSES else {}


def pixels_before_channels(values: Tensor) -> Tensor:
    """A weight of version 3's patch merging in the order of Swin's authors: the four pixels, a column's two together.

    MMDetection has the four pixels within each channel, a row's two together.
    """
    by_channel = values.reshape(*values.shape[:-1], -1, 4)[..., [0, 2, 1, 3]]
    return by_channel.transpose(-1, -2).flatten(-2)


def _normalisation(recipe: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Where the input is normalised and how: before the model in version 3, in the test pipeline in version 2."""
    for place in ("model.data_preprocessor", "data_preprocessor"):
        own = at(recipe, place)
        if isinstance(own, Mapping) and own.get("mean") is not None:
            return place, own
    steps = [step for step in _test_steps(recipe) if step.get("type") == "Normalize"]
    return "Normalize", steps[0] if steps else {}


def _test_steps(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of the test pipeline, those of test time augmentation after it."""
    paths = ("test_dataloader.dataset.pipeline", "data.test.pipeline", "test_pipeline")
    pipeline = next((steps for path in paths if isinstance(steps := at(recipe, path), list)), [])
    steps = [step for step in pipeline if isinstance(step, Mapping)]
    nested = [inner for step in steps if isinstance(inner := step.get("transforms"), list)]
    return steps + [step for inner in nested for step in inner if isinstance(step, Mapping)]
