"""What every predict.py shares: photographs, folders, globs and videos -> drawings, masks, JSON, a report."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import nn

from common.checkpoint import write_text
from common.commands import autocast, choose_device
from common.errors import UserError
from common.images import frame_rate, is_video, list_images, read_frames, read_image, write_video
from common.report import Entry, make_entry, write_prediction_report
from common.results import Instances
from common.runlog import Bar

Picture = NDArray[np.uint8]


@dataclass
class Predict:
    """Find the objects in photographs and videos."""

    images: Annotated[list[str], tyro.conf.Positional]
    """Photographs, folders, globs, videos."""
    weights: str
    """A checkpoint of ours."""
    out: str = "predictions"
    """Folder to write to: drawings/, masks/, predictions.json, report.html."""
    threshold: float = 0.3
    """Instances with a lower score are not drawn; predictions.json holds all."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass."""
    limit: int = 0
    """Use only the first so many images; 0: all."""
    max_megapixels: float = 100.0
    """Larger photographs are skipped before they are decoded."""


@dataclass
class Written:
    """What predictions.json and the report will say."""

    entries: list[Entry]
    images: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)


def predict(model: nn.Module, class_names: Sequence[str], category_ids: Sequence[int], options: Predict) -> None:
    """Predict everything that the command line names; what can't be read is named in a line and skipped."""
    out = Path(options.out)
    model = model.to(choose_device(options.device)).to(memory_format=torch.channels_last)
    found = list_images(options.images)
    videos = [path for path in found if is_video(path)]
    stills = [path for path in found if not is_video(path)][: options.limit or None]
    written = Written([skip(path, "not an image or a video") for path in other_files(options.images, found)])
    with Bar("predicting", len(stills)) as bar:
        for number, (path, name) in enumerate(zip(stills, unique_names(stills), strict=True), start=1):
            try:
                image = read_image(path, int(options.max_megapixels * 1e6))
            except UserError as error:
                written.entries.append(skip(path, str(error)))
            else:
                result = predict_one(model, image, options.precision)
                write_still(out, name, number, path, image, result, category_ids, options.threshold, written)
            bar.advance()
    for path in videos:
        predict_video(model, path, out, options)
    if stills:
        finish(out, written, class_names, category_ids)
        skipped = sum(bool(entry.skipped) for entry in written.entries)
        print(f"{len(written.images)} photographs done, {skipped} files skipped; {(out / 'report.html').resolve()}")
    if stills and not written.images:
        raise UserError("none of the photographs could be read")


def skip(path: Path, reason: str) -> Entry:
    reason = reason.removeprefix(f"{path}: ")
    print(f"skipped: {path}: {reason}", file=sys.stderr)
    return Entry(str(path), skipped=reason)


def other_files(sources: Sequence[str], found: Sequence[Path]) -> list[Path]:
    """The files in the named folders that are none of those found; hidden ones aside."""
    known = set(found)
    files = {path for source in sources for path in Path(source).rglob("*") if path.is_file()}
    return sorted(path for path in files - known if not path.name.startswith("."))


def predict_one(model: nn.Module, image: Picture, precision: str) -> Instances:
    with autocast(next(model.parameters()).device, precision):
        result: Instances = model.predict([image])[0]  # type: ignore[operator]
    return result


def write_still(
    out: Path,
    name: str,
    number: int,
    path: Path,
    image: Picture,
    result: Instances,
    category_ids: Sequence[int],
    threshold: float,
    written: Written,
) -> None:
    drawing = result.draw(image, threshold)
    for folder in ("drawings", "masks"):
        (out / folder / name).parent.mkdir(parents=True, exist_ok=True)
    drawing.save(out / "drawings" / f"{name}.jpg", quality=90)
    cv2.imwrite(str(out / "masks" / f"{name}.png"), instance_map(result))
    height, width = result.size
    written.images.append({"id": number, "file_name": str(path), "height": height, "width": width})
    written.detections += result.to_coco(number, category_ids)
    written.entries.append(make_entry(str(path), drawing, result))


def instance_map(result: Instances) -> NDArray[np.uint16]:
    """[H, W]: 0, or the number (from 1, in the order of the scores) of the best instance at each pixel."""
    if result.masks is None or len(result) == 0:
        return np.zeros(result.size, np.uint16)
    first = result.masks.to(torch.uint8).argmax(dim=0) + 1
    return (first * result.masks.any(dim=0)).cpu().numpy().astype(np.uint16)


def finish(out: Path, written: Written, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)]
    content = {"images": written.images, "categories": categories, "annotations": written.detections}
    write_text(out / "predictions.json", json.dumps(content))
    write_prediction_report(out / "report.html", written.entries, class_names)


def predict_video(model: nn.Module, source: Path, out: Path, options: Predict) -> None:
    """A video with the instances drawn onto every frame."""

    def drawn() -> Iterator[Picture]:
        for index, frame in enumerate(read_frames(source)):
            if options.limit and index >= options.limit:
                return
            result = predict_one(model, frame, options.precision)
            yield np.asarray(result.draw(frame, options.threshold))

    out.mkdir(parents=True, exist_ok=True)
    target = out / f"{source.stem}.mp4"
    write_video(target, drawn(), frame_rate(source))
    print(f"video: {target.resolve()}")


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A name for each photograph's outputs: its own, numbered where several folders use it."""
    seen: dict[str, int] = {}
    names = []
    for path in paths:
        count = seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if count == 1 else f"{path.stem}-{count}")
    return names
