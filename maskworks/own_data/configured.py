"""--data PATH on a command line: the configuration that follows from it, with a plan printed before the first step."""

import os
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from common.files import here_or_above
from common.run.configuration import UNPREFIXED
from common.run.settings import Data
from maskworks.command_line.reading import flag_of
from maskworks.command_line.variants import changed, choose, configure
from maskworks.command_line.yaml_files import flags
from maskworks.own_data import augmentation, checks, coco_files, fitting, found, splits
from maskworks.own_data.tiles import Tiling

T = TypeVar("T")
D = TypeVar("D", bound=Data)
OF_SEGMENTS = ("panoptic", "scene_graph")  # tasks whose files aren't COCO's of objects
OF_A_PATH = ("--recipe", "--data.recipe", "--data.val-fraction", "--data.group-by", "--data.rectangles", "--data.check")
SMALL = "small"  # the variant that learns own data where none is named


def configured(
    variants: Mapping[str, T],
    arguments: Sequence[str] | None = None,
    prog: str = "train.py",
    task: str = "instances",
) -> T:
    """As `configure`; with --data, settings that follow from the data stand below those that the user gives."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    asked: Any = configure(variants, arguments, prog=prog)
    if not asked.data.path:
        if alone := [word for word in arguments if flag_of(word) in OF_A_PATH]:
            raise UserError(f"{alone[0]} is for own data, and follows from them; say with --data where they are")
        return augmented(variants, asked, arguments, prog)  # type: ignore[no-any-return]
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and SMALL not in variants:
        raise UserError(f"--data needs a variant here, named before it; there are {', '.join(variants)}")
    base: Any = deepcopy(choose(variants, arguments[0] if named else SMALL))
    others = {name: each for name, each in variants.items() if name != base.variant}
    published = deepcopy(base.training)
    if base.variant == SMALL and (few := fitting.batch_without_gpu(asked.training.device)):
        base.training.batch_size = few
    asked = configure({base.variant: base} | others, arguments, prog=prog)
    data = located(asked.data, arguments, task)
    if task in OF_SEGMENTS:
        return of_segments({base.variant: base} | others, asked, data, arguments, prog)  # type: ignore[no-any-return]
    train, val = checks.opened(data.train), checks.opened(data.val)
    if base.variant == SMALL:
        data = cut_as_usual(data, train, {flag_of(word) for word in arguments})
    tiling = Tiling.of(data.tile, data.overlap)
    measures = fitting.Measures.of(train, tiling)
    if limit := asked.training.limit:
        first = train.a.sizes[:limit].tolist()
        measures = replace(measures, pictures=sum(len(tiling.windows(*size)) if tiling else 1 for size in first))
    settings = fitting.fitted(measures) if base.variant == SMALL else {}
    if asked.data.recipe != "published":
        scaled = getattr(base, "recipe_batch_size", 0)  # then its learning rate is for the asked batch already
        published = replace(published, batch_size=asked.training.batch_size) if scaled else published
        settings |= fitting.finetune(measures, asked.training, published, base.optimizer)
    base = with_settings(base, settings, prog)
    config: Any = configure({base.variant: base} | others, arguments, prog=prog)
    config = augmented({base.variant: base} | others, config, arguments, prog)
    config.data = replace(
        data, recipe="", augment=config.data.augment
    )  # the settings say it from here on, to --resume and --config as well
    review(config, measures, train, val, masks=task != "captions")
    return config  # type: ignore[no-any-return]


def cut_as_usual(data: D, train: checks.Set, given: set[str]) -> D:
    """With tiles where pictures are of very different sizes, if nobody has said anything of tiles."""
    tile = 0 if data.tile or "--data.tile" in given else fitting.tile_for(train)
    if not tile:
        return data
    say(
        f"pictures above {tile} pixels a side are cut into tiles of that size, in which things are as large as in the "
        "others; --data.tile 0 leaves them whole"
    )
    return replace(data, tile=tile, overlap=data.overlap if "--data.overlap" in given else tile // 4)


def of_segments(variants: Mapping[str, Any], asked: Any, data: Data, arguments: Sequence[str], prog: str) -> Any:
    """The same for panoptic maps and scene graphs, of which only pictures and segments are counted."""
    train, val = (coco_files.counted_segments(each, each is data.val) for each in (data.train, data.val))
    pictures, segments = len(train.pictures), sum(train.segments.values())
    base, recipe = next(iter(variants.values())), asked.data.recipe
    measures = fitting.Measures(min(pictures, asked.training.limit or pictures), segments, 0.0, 1.0, 1.0, 0, 0)
    if recipe != "published":
        base = with_settings(base, fitting.finetune(measures, asked.training, base.training, base.optimizer), prog)
    config: Any = configure({**variants, base.variant: base}, arguments, prog=prog)
    config = augmented({**variants, base.variant: base}, config, arguments, prog)
    config.data = replace(data, recipe="", augment=config.data.augment)
    validating, others = len(val.pictures), sum(val.segments.values())
    say(f"data: {pictures} pictures train, with {segments} segments; {validating} validate, with {others}")
    say(f"plan: {plan(config, measures.pictures)}")
    stop_or_say(checks.wasted_by(train, val, "segment"), config.data)
    return config


def augmented(variants: Mapping[str, T], asked: T, arguments: Sequence[str], prog: str) -> T:
    """What was asked for, without the package's own colours and crops where a named augmentation has those."""
    if asked.data.augment not in augmentation.STRENGTHS:  # type: ignore[attr-defined]
        return asked
    named = bool(arguments) and not arguments[0].startswith("-")
    name, base = (arguments[0], choose(variants, arguments[0])) if named else next(iter(variants.items()))
    return configure({**variants, name: with_settings(base, augmentation.IN_THE_PLACE_OF, prog)}, arguments, prog=prog)


def with_settings(base: T, settings: Mapping[str, Any], prog: str) -> T:
    """A variant with those of some settings that it has."""
    return changed(base, flags({name: value for name, value in settings.items() if has(base, name)}), prog)


def located(data: D, arguments: Sequence[str] = (), task: str = "instances") -> D:
    """The settings with the files of train and val in the place of a path; without a path, as they are."""
    if not data.path:
        return data
    if given := [word for word in arguments if word.startswith(("--data.train.", "--data.val.i", "--data.val.a"))]:
        raise UserError(f"--data says where the pictures are, and so does {given[0]}; give one of the two")
    if data.rectangles and task not in found.OF_OBJECTS:
        raise UserError("--data.rectangles: nothing looks at it in data of this kind; leave it out")
    reading = found.read(Path(here_or_above([data.path])[0]), data.rectangles, task)
    train, val = reading.train, reading.val
    if val is None and task == "scene_graph":
        train, val, said = splits.split_scene_graphs(train, data.val_fraction, data.group_by)
        reading.notes.append(said)
    elif val is None:
        train, val = splits.split(train, data.val_fraction, data.group_by)
        reading.notes.append(f"{data.val_fraction:g} of the pictures validate, chosen by a hash of their names")
    elif given := [word for word in arguments if flag_of(word) in OF_A_PATH[2:4]]:
        raise UserError(f"{given[0]}: {data.path} has validation data of its own, so nothing is split off")
    say(f"--data {data.path}: taken for {reading.kind}" + "".join(f"; {note}" for note in reading.notes))
    files = splits.written(Path(data.path).resolve().name, {"train": train, "val": val})
    return replace(data, path="", train=files["train"], val=files["val"])


def review(config: Any, m: fitting.Measures, train: checks.Set, val: checks.Set, masks: bool = True) -> None:
    """Print what was found and what will be done; stop for what would waste it."""
    tiling = Tiling.of(config.data.tile, config.data.overlap)
    say(
        f"data: {len(train.a.image_ids)} pictures train, with {m.objects} objects of {len(train.class_names)} classes, "
        f"up to {m.most} in {'a tile' if tiling else 'one'}; {len(val.a.image_ids)} pictures validate, "
        f"with {val.objects()} objects"
    )
    if config.variant == SMALL:
        say(f"fitted to them: {' '.join(flags({n: value_of(config, n) for n in fitting.fitted(m) if has(config, n)}))}")
    say(f"plan: {plan(config, m.pictures)}")
    reasons = checks.wasted(train, val, masks=masks and getattr(config.model, "masks", True))
    scales = network_scales(config, fitting.seen_sizes(train.a.sizes, tiling))
    small = {name: part for name, part in checks.too_small(train, scales).items() if part >= checks.SOME}
    if small:
        listed = ", ".join(f"{part:.0%} of {name}" for name, part in small.items())
        line = f"at the network's input these all but vanish, with less than {checks.SMALLEST} pixels a side: {listed}"
        if max(small.values()) >= checks.MANY:
            reasons.append(f"{line}; enlarge the input, or cut the pictures: --data.tile")
        else:
            say(f"note: {line}")
    stop_or_say(reasons, config.data)


def stop_or_say(reasons: Sequence[str], data: Data) -> None:
    if reasons and data.check == "stop":
        raise UserError(f"{' | '.join(reasons)} | --data.check say trains all the same")
    for reason in reasons:
        say(f"note: {reason}")


def plan(config: Any, pictures: int) -> str:
    training, schedule = config.training, config.schedule
    epoch = -(-pictures // training.batch_size)
    steps = training.steps or training.epochs * epoch
    frozen = getattr(config.model, "frozen_stages", -1)
    return (
        f"{steps} steps of {training.batch_size} pictures, {steps / epoch:.4g} epochs; learning rate "
        f"{config.optimizer.lr:g} after {schedule.warmup} steps, then {schedule.name}; "
        f"a score every {training.evaluate_every} epochs, the best is kept; "
        f"weights from {training.weights or 'nothing'}; augmentation {config.data.augment}; "
        f"{f'the stem and {frozen} stages are frozen' if frozen >= 0 else 'nothing is frozen'}"
    )


def network_scales(config: Any, sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """How much larger each picture's objects are to the network (geometric mean of both directions)."""
    if has(config, "model.input_size"):
        return np.asarray(config.model.input_size / np.sqrt(sizes.prod(axis=1)))
    fits = [config.test.long_side / sizes.max(axis=1), config.test.short_side / sizes.min(axis=1)]
    return np.asarray(np.minimum(*fits))


def has(config: Any, name: str) -> bool:
    section, _, setting = name.rpartition(".")
    return hasattr(getattr(config, section or UNPREFIXED, None), setting)


def value_of(config: Any, name: str) -> Any:
    section, _, setting = name.rpartition(".")
    return getattr(getattr(config, section), setting)


def say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # before the processes have joined
        print(line, flush=True)
