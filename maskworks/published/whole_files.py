"""A whole published file made a checkpoint of ours: by scripts/mmdet2pytorch.py, or when it is asked for by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.run.checkpoint import Checkpoint, check_weights
from common.run.configuration import to_dict
from maskworks.command_line.variants import choose
from maskworks.published.class_lists import NUMBERED, classes_of, read_classes
from maskworks.published.coco_classes import known_classes
from maskworks.published.origin import Classes, Origin, UndecidedError
from maskworks.published.renaming import Converted, refusing_fragments


@dataclass
class Understood:
    """What a published file was found to be."""

    path: Path
    package: str
    converted: Converted[Any]
    classes: Classes
    notes: list[str]  # what was not understood; what was decided, and who says it


def understand(
    package: str, path: Path, state: Mapping[str, Tensor], rest: Mapping[str, Any], variant: str | None, classes: str
) -> Understood:
    """`variant` is wanted where the weights leave a choice, `classes` (a list or a file) where the file names none."""
    module, conversion = import_module(package), import_module(f"{package}.convert")
    if variant:
        choose(module.VARIANTS, variant)
    origin = Origin.read(str(path), rest, read_classes(classes) if classes else None)
    try:
        converted = conversion.convert(state, origin, variant)
    except UndecidedError:
        conversion.convert(state)  # stops where no recipe helps: the file has layers that no network here has
        raise
    found, notes = name_classes(package, conversion, converted, origin)
    if broken := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        notes.append(f"{len(broken)} of its tensors hold what is no number, as {broken[0]}: it will find nothing")
    told = [f"{path}: {note}" for note in (*origin.notes, *notes)]
    told += [f"  {one.setting} = {one.value}: from {one.source}" for one in converted.decisions]
    told.append(f"  classes = {shown(found.names)}: from {found.source}")
    return Understood(path, package, converted, found, told)


def checkpoint_of(file: Understood) -> Checkpoint:
    """Strict: every weight of the network is there, none too many."""
    converted, (names, ids, _) = file.converted, file.classes
    network = import_module(file.package).load.__annotations__["return"]
    with torch.device("meta"), refusing_fragments():  # without memory: a broken file may claim any size
        model = network(converted.config, names, ids)
    check_weights(model, converted.weights, str(file.path))
    weights = {name: converted.weights[name].to(value.dtype) for name, value in model.state_dict().items()}
    return Checkpoint(file.package, to_dict(converted.config), names, ids, weights)


def name_classes(package: str, conversion: Any, converted: Converted[Any], origin: Origin) -> tuple[Classes, list[str]]:
    """What a package's model calls its classes; GLIP takes any words, and Pose2Seg knows people only."""
    known = getattr(conversion, "known_classes", known_classes)
    count = conversion.class_count(converted.weights) - getattr(converted.config.model, "spare_outputs", 0)
    if package == "glip" and origin.classes is not None:
        return origin.classes, []
    if package in {"glip", "pose2seg"} and origin.classes is None and (published := known(count)):
        return Classes(tuple(published), tuple(published.values()), f"{package}, whose published models have them"), []
    found, notes = classes_of(origin, count, known)
    own = getattr(conversion, "published_classes", None)
    if found.source == NUMBERED and own and (told := own(converted.config, count)):
        return told, []
    return found, notes


def shown(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{names[0]}, {names[1]}, ... {names[-1]} ({len(names)})"
