"""The photographs of a case: any number of them, each compared as a case of its own, grey ones in three channels."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from common.errors import UserError
from tests.parity.case import Array, Case

PHOTOGRAPH = re.compile(r"image[_/]?\d*")


def in_colour(case: Case) -> Case:
    """The case with its grey photographs [H, W] or [H, W, 1], stacked ones too, as what every original reads: three
    equal channels.
    """
    names = [name for name in case.inputs if PHOTOGRAPH.fullmatch(name.removeprefix("train_"))]
    coloured = {f"in/{name}": three_channels(case.inputs[name]) for name in {*names, *photographs(case)}}
    return replace(case, arrays=case.arrays | coloured)


def three_channels(photograph: Array) -> Array:
    """[..., H, W], [..., H, W, 1] or [..., H, W, 3] bytes -> [..., H, W, 3]; what isn't bytes is no photograph."""
    if photograph.dtype != np.uint8:
        return photograph
    if photograph.ndim == 2 or photograph.shape[-1] not in (1, 3):
        photograph = photograph[..., None]
    return np.repeat(photograph, 3, axis=-1) if photograph.shape[-1] == 1 else photograph


def one_by_one(case: Case) -> Iterator[tuple[Case, dict[str, str]]]:
    """The case itself, then one for each further photograph that outputs are named after ("scores/image2" or
    "image2/scores"): a case of that `image` alone, and its arrays' names -> what they are called in the whole case.

    What isn't named after a photograph belongs to the case itself, whose `image` is the only photograph, or the first
    of those that the spec lists, where none is called so.
    """
    own = {photograph: names_after(case, photograph) for photograph in photographs(case)}
    taken = {name for names in own.values() for name in names.values()}
    arrays = {name: value for name, value in case.arrays.items() if name not in taken}
    if len(own) == 1 or (own and "images" in case.spec):
        arrays.setdefault("in/image", case.arrays[f"in/{next(iter(own))}"])
    yield replace(case, arrays=arrays), {name: name for name in arrays}
    constants = {name: value for name, value in case.arrays.items() if name.startswith("const/")}
    for photograph, names in own.items():
        if names:
            alone = {plain: case.arrays[name] for plain, name in names.items()}
            image = {"in/image": case.arrays[f"in/{photograph}"]}
            yield replace(case, arrays=constants | image | alone), names


def photographs(case: Case) -> list[str]:
    """The inputs that the spec lists as images, else those that are called so, else the only one that looks so."""
    stated = case.spec.get("images")
    if isinstance(stated, list) and all(name in case.inputs for name in stated):
        return stated
    called = list(numbered(case, "image").values())
    alike = [name for name, value in case.inputs.items() if value.dtype == np.uint8 and value.shape[2:] in ((1,), (3,))]
    return called or [name for name in alike if len(alike) == 1 and not name.startswith("train_")]


def names_after(case: Case, photograph: str) -> dict[str, str]:
    """What belongs to a photograph: "out/scores" -> "out/scores/image2", wherever the photograph's name stands."""
    named: dict[str, str] = {}
    others = photographs(case)
    for name in case.arrays:
        section, _, rest = name.partition("/")
        plain = rest.removeprefix(f"{photograph}/").removesuffix("@sample").removesuffix(f"/{photograph}")
        sampled = "@sample" if rest.endswith("@sample") else ""
        longer = any(rest.startswith(f"{each}/") for each in others if each.startswith(f"{photograph}/"))
        if section in ("in", "out") and plain + sampled != rest and rest not in others and not longer:
            named[f"{section}/{plain}{sampled}"] = name
    return named


def numbered(case: Case, name: str) -> dict[int, str]:
    """The inputs of several images in order, however they are numbered: gt_boxes0, gt_boxes_1, gt_boxes/2; one without
    a number comes before them, as number -1.
    """
    pattern = re.compile(rf"{name}[_/]?(\d*)(_packed|@bits)?")
    found = [(match, each) for each in case.inputs if (match := pattern.fullmatch(each))]
    return dict(sorted((int(match[1] or -1), each) for match, each in found))


def learned_from(case: Case, count: int) -> list[Array]:
    """The photographs that `count` images' ground truth is of: those that the spec lists, else those called
    train_image, else image, image2, ... in their order.
    """
    stated = re.findall(r"in/([a-z_]*image[_/]?\d*)", str(case.spec.get("train_batch", "")))
    names = case.spec.get("train_images") or stated or list(numbered(case, "train_image").values())
    names = names or photographs(case)[:count]
    missing = [name for name in names if name not in case.inputs]
    if missing or len(names) != count:
        raise UserError(f"{case.name}: ground truth of {count} images, but {names} to train on; {missing} are missing")
    return [case.inputs[name] for name in names]
