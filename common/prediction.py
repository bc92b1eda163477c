"""What every predict.py shares: photographs, folders, globs and videos -> drawings, masks, JSON, a report."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
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
from common.commands import choose_device
from common.errors import UserError
from common.images import frame_rate, is_video, list_images, read_frames, read_image, write_video
from common.precision import autocast, fastest
from common.report import Entry, make_entry, write_prediction_report
from common.results import Instances, Result, SceneGraph
from common.runlog import Bar

Picture = NDArray[np.uint8]
Json = dict[str, Any]


@dataclass
class Predict:
    """Find the objects in photographs and videos."""

    images: Annotated[list[str], tyro.conf.Positional]
    """Photographs, folders, globs, videos."""
    weights: str
    """A checkpoint of ours."""
    out: str = "predictions"
    """Folder to write to: drawings/, masks/ or panoptic/, predictions.json, report.html."""
    threshold: float = 0.3
    """Instances with a lower score are not drawn; predictions.json holds all."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Number format of the forward pass; auto: bf16 where a trial finds it clearly faster."""
    limit: int = 0
    """Use only the first so many images; 0: all."""
    max_megapixels: float = 100.0
    """Larger photographs are skipped before they are decoded."""


def predict(
    model: nn.Module,
    class_names: Sequence[str],
    category_ids: Sequence[int],
    options: Predict,
    thing_count: int | None = None,
    remarks: Callable[[Result], Sequence[Json]] = lambda result: (),
) -> None:
    """Predict everything that the command line names; what can't be read is named in a line and skipped.

    Of a panoptic model's classes the first `thing_count` are things. `remarks` gives what predictions.json is to
    say more of each object of a result.
    """
    device = choose_device(options.device)
    model = model.to(device).to(memory_format=torch.channels_last)
    precision = fastest(device) if options.precision == "auto" else options.precision
    found = list_images(options.images)
    videos = [path for path in found if is_video(path)]
    stills = [path for path in found if not is_video(path)][: options.limit or None]
    output = Output(Path(options.out), category_ids, options.threshold, remarks)
    output.entries += [skip(path, "not an image or a video") for path in other_files(options.images, found)]
    with Bar("predicting", len(stills)) as bar:
        for path, name in zip(stills, unique_names(stills), strict=True):
            try:
                image = read_image(path, int(options.max_megapixels * 1e6))
            except UserError as error:
                output.entries.append(skip(path, str(error)))
            else:
                output.write(path, name, image, predict_one(model, image, precision))
            bar.advance()
    for path in videos:
        predict_video(model, path, output.folder, options, precision)
    if stills:
        report = output.finish(categories(class_names, category_ids, thing_count))
        skipped = sum(bool(entry.skipped) for entry in output.entries)
        print(f"{len(output.images)} photographs done, {skipped} files skipped; {report.resolve()}")
    if stills and not output.images:
        raise UserError("none of the photographs could be read")


@dataclass
class Output:
    """The folder with what was found: drawings and masks at once, predictions.json and the report at the end."""

    folder: Path
    category_ids: Sequence[int]
    threshold: float
    remarks: Callable[[Result], Sequence[Json]]
    entries: list[Entry] = field(default_factory=list)  # of the report
    images: list[Json] = field(default_factory=list)  # of predictions.json, as the next
    annotations: list[Json] = field(default_factory=list)

    def write(self, path: Path, name: str, image: Picture, result: Result) -> None:
        drawing = result.draw(image, self.threshold)
        drawing.save(self._place("drawings", f"{name}.jpg"), quality=90)
        self.entries.append(make_entry(str(path), drawing, result, self.threshold))
        height, width = image.shape[:2]
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": str(path), "height": height, "width": width})
        found = self._write_masks(name, number, result)
        for annotation, remark in zip(found, self.remarks(result), strict=False):  # most models have none
            annotation.update(remark)
        self.annotations += found

    def _write_masks(self, name: str, number: int, result: Result) -> list[Json]:
        """A result's masks as a PNG; returns its annotations, in COCO's format."""
        if isinstance(result, Instances):
            if result.masks is not None:
                cv2.imwrite(str(self._place("masks", f"{name}.png")), instance_map(result))
            return result.to_coco(number, self.category_ids)
        panoptic = result.panoptic if isinstance(result, SceneGraph) else result
        panoptic.to_png().save(self._place("panoptic", f"{name}.png"))
        entry = panoptic.to_coco(number, self.category_ids, f"{name}.png")
        if isinstance(result, SceneGraph):
            entry["relations"] = result.to_json()["relations"]
        return [entry]

    def _place(self, kind: str, name: str) -> Path:
        path = self.folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def finish(self, classes: list[Json]) -> Path:
        """Write predictions.json and the report; returns the report's path."""
        content = {"images": self.images, "categories": classes, "annotations": self.annotations}
        write_text(self.folder / "predictions.json", json.dumps(content))
        report = self.folder / "report.html"
        write_prediction_report(report, self.entries, [entry["name"] for entry in classes])
        return report


def skip(path: Path, reason: str) -> Entry:
    reason = reason.removeprefix(f"{path}: ")
    print(f"skipped: {path}: {reason}", file=sys.stderr)
    return Entry(str(path), skipped=reason)


def other_files(sources: Sequence[str], found: Sequence[Path]) -> list[Path]:
    """The files in the named folders that are none of those found; hidden ones aside."""
    known = set(found)
    files = {path for source in sources for path in Path(source).rglob("*") if path.is_file()}
    return sorted(path for path in files - known if not path.name.startswith("."))


def predict_one(model: nn.Module, image: Picture, precision: str) -> Result:
    with autocast(next(model.parameters()).device, precision):
        result: Result = model.predict([image])[0]  # type: ignore[operator]
    return result


def instance_map(result: Instances) -> NDArray[np.uint16]:
    """[H, W]: 0, or the number (from 1, in the order of the scores) of the best instance at each pixel."""
    assert result.masks is not None
    if len(result) == 0:
        return np.zeros(result.size, np.uint16)
    first = result.masks.to(torch.uint8).argmax(dim=0) + 1
    return (first * result.masks.any(dim=0)).cpu().numpy().astype(np.uint16)


def categories(class_names: Sequence[str], category_ids: Sequence[int], thing_count: int | None) -> list[Json]:
    entries: list[Json] = [{"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)]
    if thing_count is None:
        return entries
    return [entry | {"isthing": int(label < thing_count)} for label, entry in enumerate(entries)]


def predict_video(model: nn.Module, source: Path, out: Path, options: Predict, precision: str) -> None:
    """A video with the instances drawn onto every frame."""

    def drawn() -> Iterator[Picture]:
        for index, frame in enumerate(read_frames(source)):
            if options.limit and index >= options.limit:
                return
            result = predict_one(model, frame, precision)
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
