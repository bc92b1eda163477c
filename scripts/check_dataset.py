"""The doctor of COCO-format data: names every fault before a training starts, with what to do about it.

    python scripts/check_dataset.py FILE                  the annotation file alone; a panoptic one with its PNGs
    python scripts/check_dataset.py FILE --images DIR     and its images: missing, damaged, of another size
    python scripts/check_dataset.py FILE --fix OUT.json   what can be computed again is, in a new file, which is checked
    python scripts/check_dataset.py FOLDER                own data in any format that --data takes: each part of it, its
                                                          images, and what training and validation have in common

--fix counts areas, draws boxes, numbers annotations whose id is 0 or used twice, and leaves out what is empty or
repeated. Exit status: 0 nothing found or only notes, 1 faults found, 2 the file cannot be used at all.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from common.data.annotation_checks import check_files, read_annotations
from common.data.annotation_files import FARTHEST, Annotations, Fault, Severity
from common.data.images import read_ids
from common.errors import UserError
from common.files import read_bytes, read_text, write_text
from common.metrics.panoptic import VOID
from common.ops import masks as rle
from common.run.settings import Data
from maskworks import own_data
from maskworks.command_line import program
from maskworks.own_data import checks
from maskworks.own_data.doctor import (
    area_contradicts,
    box_contradicts,
    check_classes,
    check_drawing,
    check_pictures,
    drawn,
    without_examples,
)
from upsnet.panoptic_data import PanopticFile, check_segments, existing_picture_folder, read_panoptic

SEVERITIES: dict[Severity, str] = {"fatal": "stops training", "dropped": "left out", "noted": "note"}
Json = dict[str, Any]


@dataclass
class Settings:
    file: Annotated[Path, tyro.conf.Positional]  # annotations in COCO format, of objects or panoptic; or a folder
    images: Path | None = None  # the folder that file_name starts from
    pictures: Path | None = None  # the PNGs of a panoptic file, if their folder is not named like it
    fix: Path | None = None  # write the file here, with what can be computed again; it must not exist
    show: int = 20  # faults of one kind to name one by one; the others are counted (0: all)


def main(settings: Settings) -> int:
    if settings.file.is_dir():
        return main_of_folder(settings)
    try:
        file, pictures = settings.file, settings.pictures
        panoptic = is_panoptic(file)
        if panoptic:
            pictures = pictures or existing_picture_folder(file)
            if not pictures.is_dir():
                raise UserError(f"{pictures}: no such folder of PNGs; check the path")
        if settings.fix:
            print(repair_file(file, settings.fix, pictures))
            file = settings.fix
        if panoptic and pictures:
            content, faults = examine_panoptic(file, settings.images, pictures)
        else:
            annotations, faults = examine(file, settings.images)
            content = describe(annotations)
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 200)
    if faults:
        console.print(table(file, faults, settings.show or len(faults)))
    console.print(escape(f"{file}: {content}; {summary(faults)}"), soft_wrap=True)
    return 1 if any(fault.severity != "noted" for fault in faults) else 0


def main_of_folder(settings: Settings) -> int:
    """Own data: the files that --data would train with, one after the other, and then both."""
    try:
        if settings.fix or settings.images or settings.pictures:
            raise UserError(f"{settings.file}: --fix, --images and --pictures are for a file; name one of them instead")
        data = own_data.located(Data(path=str(settings.file)))
        sets = [checks.opened(images) for images in (data.train, data.val)]
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    parts = [(Path(images.annotations[0]), Path(images.images[0])) for images in (data.train, data.val)]
    worst = max(main(replace(settings, file=file, images=folder, fix=None)) for file, folder in parts)
    reasons = checks.wasted(*sets, masks=False)
    print("\n".join(reasons) or "training and validation: no faults")
    return max(worst, bool(reasons))


class Entries(msgspec.Struct):
    annotations: list[msgspec.Raw] = []


def is_panoptic(file: Path) -> bool:
    """By the first annotation; what else is wrong with a file is said by who reads it."""
    try:
        first = msgspec.json.decode(read_bytes(file), type=Entries).annotations[:1]
        return any("segments_info" in msgspec.json.decode(entry) for entry in first)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError):
        return False


def examine(file: Path, images: Path | None) -> tuple[Annotations, list[Fault]]:
    """Everything that the loader checks, and what takes too long to be checked at every start."""
    annotations, faults = read_annotations(file)
    faults += check_drawing(annotations) + check_classes(annotations)
    if images:
        ids, names = annotations.image_ids.tolist(), annotations.file_names
        faults += check_files(images, ids, names) + check_pictures(images, ids, names, annotations.sizes.tolist())
    return annotations, in_order(faults)


def in_order(faults: list[Fault]) -> list[Fault]:
    order = list(SEVERITIES)
    return sorted(faults, key=lambda fault: (order.index(fault.severity), fault.kind))


# --- panoptic files


def examine_panoptic(file: Path, images: Path | None, pictures: Path) -> tuple[str, list[Fault]]:
    """Likewise: the entries, and each PNG against its entry."""
    content = read_panoptic(file)
    faults = check_segments(content)
    ids = [annotation.image_id for annotation in content.annotations]
    missing = check_files(pictures, ids, [annotation.file_name for annotation in content.annotations])
    faults += missing + check_segment_pixels(content, pictures)
    if images:
        numbers, names = [image.id for image in content.images], [image.file_name for image in content.images]
        sizes = [(image.height, image.width) for image in content.images]
        faults += check_files(images, numbers, names) + check_pictures(images, numbers, names, sizes)
    used = {segment.category_id for annotation in content.annotations for segment in annotation.segments_info}
    faults += [without_examples(category, "segment") for category in content.categories if category.id not in used]
    things = sum(bool(category.isthing) for category in content.categories)
    segments = sum(len(annotation.segments_info) for annotation in content.annotations)
    return (
        f"{len(content.images)} images, {segments} segments, {len(content.categories)} classes ({things} of things)"
    ), in_order(faults)


def check_segment_pixels(content: PanopticFile, folder: Path) -> list[Fault]:
    """PNGs that can't be read, are of another size, or have other segments than the file says."""
    faults = []
    sizes = {image.id: (image.height, image.width) for image in content.images}
    for annotation in content.annotations:
        where, path = f"annotation of image {annotation.image_id}", folder / annotation.file_name
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            continue  # check_files names it
        try:
            ids = read_ids(path)
        except UserError as error:
            problem, _, remedy = str(error).partition("; ")
            faults.append(Fault("fatal", "bad PNG", where, problem, remedy or "write it again"))
            continue
        size = sizes.get(annotation.image_id, ids.shape)
        if ids.shape != size:
            problem = f"{path.name} is {ids.shape[1]} x {ids.shape[0]}, its image {size[1]} x {size[0]}"
            faults.append(Fault("fatal", "wrong size", where, problem, "write the PNG again at the image's size"))
        counts = dict(zip(*(each.tolist() for each in np.unique(ids, return_counts=True)), strict=True))
        known = {segment.id for segment in annotation.segments_info}
        if strays := sorted(set(counts) - known - {VOID}):
            problem = f"{path.name} has segment {strays[0]}" + (f" and {len(strays) - 1} more" if strays[1:] else "")
            problem += ", which the file does not list"
            faults.append(Fault("fatal", "unknown segment", where, problem, "list it, or write the PNG again"))
        for segment in annotation.segments_info:
            pixels = counts.get(segment.id, 0)
            if not pixels:
                problem = f"{path.name} has no pixel of segment {segment.id}"
                faults.append(Fault("dropped", "empty segment", where, problem, "remove it (--fix does)"))
            elif segment.area != pixels:
                problem = f"the area of segment {segment.id} is {segment.area:g}, its pixels are {pixels}"
                faults.append(Fault("noted", "wrong area", where, problem, "panoptic quality goes by it; --fix counts"))
    return faults


# --- what can be computed again


def repair_file(file: Path, out: Path, pictures: Path | None) -> str:
    """Write the repaired file; returns in a line what has changed."""
    if out.exists():
        raise UserError(f"{out}: exists already; --fix writes a new file, so name another one")
    try:
        data = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: broken JSON: {error}; write the file again") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in parts):
        raise UserError(f'{file}: expected a COCO object with "images", "annotations" and "categories"')
    changes: Counter[str] = Counter()
    for part in ("images", "categories"):
        data[part] = once(data[part], changes, f"repeated {part} left out")
    if pictures:
        for entry in filter(is_entry, data["annotations"]):
            repair_segments(entry, pictures, changes)
    else:
        repair_objects(data, changes)
    write_text(out, json.dumps(data))
    return f"{out}: written; " + (", ".join(f"{n} {what}" for what, n in changes.items()) or "nothing to change")


def once(entries: list[Any], changes: Counter[str], what: str) -> list[Any]:
    """Without entries that say the same as an earlier one, word for word."""
    kept = list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())
    if len(kept) < len(entries):
        changes[what] += len(entries) - len(kept)
    return kept


def repair_objects(data: Json, changes: Counter[str]) -> None:
    """Areas, boxes and ids of objects; objects without a pixel are left out."""
    images = filter(is_entry, data["images"])
    sizes = {str(each.get("id")): (each.get("height"), each.get("width")) for each in images}
    before = data["annotations"]
    masks = any(entry.get("segmentation") for entry in filter(is_entry, before))
    kept = [entry for entry in before if not is_entry(entry) or repair_object(entry, sizes, masks, changes)]
    if len(kept) < len(before):
        changes["empty annotations left out"] += len(before) - len(kept)
    taken = {entry["id"] for entry in kept if is_entry(entry) and is_id(entry.get("id"))}
    following, seen = max(taken, default=0) + 1, set()
    for entry in filter(is_entry, kept):
        if not is_id(entry.get("id")) or entry["id"] in seen:
            entry["id"], following = following, following + 1
            changes["new ids"] += 1
        seen.add(entry["id"])
    data["annotations"] = kept


def repair_object(entry: Json, sizes: dict[str, tuple[Any, Any]], masks: bool, changes: Counter[str]) -> bool:
    """Whether there is something of it; what can't be drawn stays as it is, for somebody to look at."""
    found, size = entry.get("segmentation"), sizes.get(str(entry.get("image_id")), (None, None))
    if isinstance(found, list):
        corners = [polygon for polygon in found if not isinstance(polygon, list) or len(polygon) >= 6]
        if len(corners) < len(found):
            changes["tiny polygons left out"] += len(found) - len(corners)
            entry["segmentation"] = found = corners
    box, area = box_of(entry), entry.get("area")
    counted = isinstance(area, int | float) and 0 <= area <= FARTHEST**2
    if not found:
        if box is not None and (box[2:] >= 0).all() and area is not None and not counted:
            entry["area"] = float(box[2:].prod())
            changes["areas"] += 1
        return not masks and (box is None or not without_extent(box, size))
    try:
        mask = drawn(found, *size)
    except (UserError, TypeError, ValueError):
        return True
    pixels, tight = int(rle.area([mask])[0]), rle.boxes([mask])[0]
    if not pixels:
        return False
    if not counted or area_contradicts(area, pixels):
        entry["area"] = pixels
        changes["areas"] += 1
    if box is None or not (box[2:] > 0).all() or box_contradicts(box, tight):
        entry["bbox"] = tight.tolist()
        changes["boxes"] += 1
    return True


def repair_segments(entry: Json, folder: Path, changes: Counter[str]) -> None:
    """Areas and boxes of the segments of one PNG; segments without a pixel are left out."""
    path, segments = folder / str(entry.get("file_name")), entry.get("segments_info")
    if not isinstance(segments, list) or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return
    ids = read_ids(path)
    kept = []
    for segment in once(segments, changes, "repeated segments left out"):
        if not is_entry(segment) or not is_id(segment.get("id")):
            kept.append(segment)
            continue
        mask = ids == segment.get("id")
        if not mask.any():
            changes["empty segments left out"] += 1
            continue
        code = rle.encode(mask[None])
        for key, value in (("area", int(mask.sum())), ("bbox", rle.boxes(code)[0].tolist())):
            if segment.get(key) != value:
                segment[key] = value
                changes[{"area": "areas", "bbox": "boxes"}[key]] += 1
        kept.append(segment)
    entry["segments_info"] = kept


def without_extent(box: NDArray[np.float64], size: tuple[Any, Any]) -> bool:
    """Whether no pixel of its image is in a box x, y, width, height that isn't negative."""
    if not all(isinstance(side, int) for side in size) or (box[2:] < 0).any():
        return bool((box[2:] == 0).any())
    return bool((box[2:] == 0).any() or (box[:2] >= size[::-1]).any() or (box[:2] + box[2:] <= 0).any())


def is_entry(value: object) -> bool:
    return isinstance(value, dict)


def is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**53


def box_of(entry: Json) -> NDArray[np.float64] | None:
    """Its bbox, if that is four numbers."""
    try:
        box = np.array(entry.get("bbox"), np.float64)
    except (TypeError, ValueError):
        return None
    return box if box.shape == (4,) and (np.abs(box) <= FARTHEST).all() else None


# --- the report


def table(file: Path, faults: list[Fault], show: int) -> Table:
    result = Table(title=escape(str(file)))
    for heading in ("fault", "count", "effect", "where", "what is wrong", "what to do"):
        result.add_column(heading, overflow="fold", justify="right" if heading == "count" else "left")
    counts = Counter((fault.severity, fault.kind) for fault in faults)
    for (severity, kind), count in counts.items():
        result.add_section()
        own = [fault for fault in faults if (fault.severity, fault.kind) == (severity, kind)]
        start = (kind, str(count), SEVERITIES[severity])
        for fault in own[:show]:
            result.add_row(*start, escape(fault.where), escape(fault.problem), escape(fault.remedy))
            start = ("", "", "")
        if count > show:
            result.add_row(*start, f"... and {count - show} more", "", "--show 0 names all")
    return result


def describe(annotations: Annotations) -> str:
    empty = len(annotations.image_ids) - len(np.unique(annotations.image_index[annotations.image_index >= 0]))
    return (
        f"{len(annotations.image_ids)} images ({empty} without annotations), "
        f"{len(annotations.ids)} annotations, {len(annotations.categories)} classes"
    )


def summary(faults: list[Fault]) -> str:
    counts = Counter(fault.severity for fault in faults)
    notes = counts.pop("noted", 0)
    found = ", ".join(f"{counts[key]} {meaning}" for key, meaning in SEVERITIES.items() if counts[key])
    said = f"{counts.total()} faults: {found}" if found else "no faults"
    return f"{said}; {notes} notes" if notes else said


if __name__ == "__main__":
    program.run(lambda: sys.exit(main(tyro.cli(Settings, description=__doc__))))
