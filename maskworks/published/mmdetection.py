"""What an MMDetection configuration (2 or 3, as data) says about a model's input and its thresholds."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import UserError
from maskworks.published.origin import Origin, Said, at

Read = Callable[[Any], Any]  # what is in the configuration -> the setting's value, or ValueError
Settings = dict[str, tuple[Read, tuple[str, ...]]]  # our setting: how it is read, and where it may stand
LVIS_CLASSES = (1203, 1230)  # of versions 1 and 0.5
LVIS_TEST = {"test.score_threshold": 1e-4, "test.max_instances": 300}  # of all its published recipes


def number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError("a number")
    return value


def whole_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("a whole number")
    return value


def whole_numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError("whole numbers")
    return tuple(map(whole_number, value))


def one_of(*words: str) -> Read:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(" or ".join(words))
        return str(value)

    return read


def three_numbers(value: Any) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise ValueError("three numbers")
    return tuple(float(number(each)) for each in value)


def long_and_short(value: Any) -> tuple[int, int]:
    """A test size (1333, 800), in either order; of several sizes there must be one only."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError("one pair of whole numbers")
    return max(map(whole_number, value)), min(map(whole_number, value))


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def caffe_style(value: Any) -> bool:
    """Whether a ResNet's stride is in its bottlenecks' first, 1x1 convolution."""
    if value not in ("caffe", "pytorch"):
        raise ValueError("'caffe' or 'pytorch'")
    return bool(value == "caffe")


def tested(name: str) -> tuple[str, str]:
    """Where a setting of testing stands: in versions 2 and 3, and in early ones and what stands on them."""
    return f"model.test_cfg.{name}", f"test_cfg.{name}"


def said(origin: Origin, settings: Settings) -> dict[str, Said]:
    """Of each setting what the first of its paths gives, where the configuration has one of them."""
    found = {}
    for setting, (read, paths) in settings.items():
        for path in paths:
            if (value := at(origin.recipe, path)) is not None:
                found[setting] = _read(origin, read, value, path)
                break
    return found


def inputs(origin: Origin) -> dict[str, Said]:
    """model.channels, .mean and .std, test.long_side and .short_side, as far as the configuration says them."""
    found = {}
    place, normalise = _normalisation(origin.recipe)
    for name in ("mean", "std"):
        if normalise.get(name) is not None:
            found[f"model.{name}"] = _read(origin, three_numbers, normalise[name], f"{place}.{name}")
    if found:
        order = "to_rgb" if normalise.get("type") == "Normalize" else "bgr_to_rgb"
        # MMDetection 2 takes True, 3 False where nothing is said
        to_rgb = _read(origin, flag, normalise.get(order, order == "to_rgb"), f"{place}.{order}")
        found["model.channels"] = Said("rgb" if to_rgb.value else "bgr", to_rgb.source)
    sizes = [step for step in _test_steps(origin.recipe) if step.get("img_scale") or step.get("scale")]
    if sizes:
        key = "img_scale" if sizes[0].get("img_scale") else "scale"
        size = _read(origin, long_and_short, sizes[0][key], f"the test pipeline's {key}")
        found["test.long_side"], found["test.short_side"] = (Said(side, size.source) for side in size.value)
    return found


def refuse_others(origin: Origin, types: Mapping[str, Sequence[Any]], system: str) -> None:
    """Stop if the configuration has something that `system` doesn't do: at each path, one of the values, or nothing."""
    for path, allowed in types.items():
        value = at(origin.recipe, path)
        if value is not None and value not in allowed:
            raise UserError(
                f"{origin.path}: its configuration has {path} = {reprlib.repr(value)}, which {system} does not do; "
                f"known: {', '.join(map(str, allowed))}"
            )


def lvis(classes: int) -> dict[str, Said]:
    """The thresholds of LVIS's recipes, for a model with so many classes that tells nothing else."""
    source = f"the published recipes of {classes} classes, LVIS's"
    return {setting: Said(value, source) for setting, value in LVIS_TEST.items()} if classes in LVIS_CLASSES else {}


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


def _read(origin: Origin, read: Read, value: Any, place: str) -> Said:
    try:
        return Said(read(value), f"its configuration, {place}")
    except ValueError as error:
        raise UserError(
            f"{origin.path}: its configuration has {reprlib.repr(value)} for {place}; expected {error}"
        ) from error
