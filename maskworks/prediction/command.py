"""What every predict.py shares: photographs, folders, globs and videos -> drawings, masks, JSON, a report.

- torchrun shares the images out over its processes; each is noted in OUT/journal once its files are written.
- Nothing grows with the number of images but the list of their names: predictions.json is put together from the
  journal at the end, one image at a time.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import torch
import torch.distributed as dist
import tyro

from common.data.images import is_video, list_images, read_image
from common.errors import UserError
from common.files import digest_of
from common.ops.precision import autocast
from common.results import Result
from common.run.distributed import choose_device, is_main, process_count, process_index
from common.run.model import Model, Picture
from common.run.ranges import Positive, Share, Whole
from common.run.runlog import Bar
from maskworks.picture_kinds import described
from maskworks.prediction.files import Output, Remarks, categories
from maskworks.prediction.film import predict_film
from maskworks.prediction.journal import Journal
from maskworks.prediction.number_format import fastest

Json = dict[str, Any]
Notes = Sequence[tuple[str, str]]  # who or what in an image was left out, and why
Find = Callable[[Path, Picture, str], tuple[Result, Notes]]  # a file, a picture in it, its name -> what is found
KINDS = ("drawings", "diagrams", "masks", "panoptic", "journal")  # the folders under --out,
FORMATS = ("coco", "labelme", "yolo", "cvat", "label-images")  # and those of --format
# the options that no image's result depends on
NO_MATTER = {"images", "out", "device", "limit", "format", "max_megapixels", "report_images", "resume", "trust"}
NO_IMAGE = "not an image or a video"
R = TypeVar("R", bound=Result)


@dataclass
class Predict:
    """Find the objects in photographs and videos."""

    images: Annotated[list[str], tyro.conf.Positional]
    """Photographs, folders, globs, videos; torchrun shares them out over its processes."""
    weights: str
    """A checkpoint of ours, or the name of a published one (python -m common.run.weights)."""
    out: str = "predictions"
    """Folder to write to: drawings/, masks/ or panoptic/, predictions.json, report.html."""
    threshold: Share = 0.3
    """Instances with a lower score are not drawn; predictions.json holds all."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Number format of the forward pass; auto: bf16 where a trial finds it clearly faster."""
    limit: Whole = 0
    """Use only the first so many images; 0: all."""
    max_megapixels: Positive = 100.0
    """Larger photographs are skipped before they are decoded."""
    report_images: Whole = 500
    """report.html shows at most so many photographs; predictions.json holds all."""
    trust: bool = False
    """Run the compiled program in a .pt2 file that --weights names: it can do whatever you can."""
    track: bool = False
    """Films only: each object gets a number that it keeps from frame to frame (ByteTrack; pip install trackers)."""
    resume: bool = False
    """Go on with a run that was stopped: what OUT/journal lists as finished is kept, not predicted again."""


def predict(
    model: Model[Result],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    options: Predict,
    thing_count: int | None = None,
    remarks: Remarks = lambda result: (),
) -> Path | None:
    """Predict everything that the command line names; what can't be read is named in a line and skipped.

    Of a panoptic model's classes the first `thing_count` are things. Returns the folder if it is to get a report.
    """
    if options.track and thing_count is not None:
        raise UserError("--track: this model finds segments, no single objects that could be followed; leave it out")
    device = choose_device(options.device)
    model = model.to(device).to(memory_format=torch.channels_last)
    precision = fastest(device) if options.precision == "auto" else options.precision

    def answer(path: Path, image: Picture, name: str) -> tuple[Result, Notes]:
        return predict_one(model, image, precision), ()

    done = predict_all(options, categories(class_names, category_ids, thing_count), answer, remarks)
    if not done or not done.photographs:
        return None
    print(f"{done.photographs} photographs done, {done.skipped} files skipped")
    return Path(options.out)


@dataclass
class Done:
    """What a run has done, once it is complete."""

    photographs: int
    annotations: int
    skipped: int
    notes: int


def predict_all(
    options: Predict, classes: list[Json], answer: Find, remarks: Remarks = lambda result: ()
) -> Done | None:
    """All that a command line names, a share of it in each process; the main one learns what they have done."""
    ids = [entry["id"] for entry in classes]
    output = Output(Path(options.out), ids, options.threshold, remarks)

    def photograph(path: Path, name: str, image: Picture, shown: bool) -> Json:
        result, notes = answer(path, image, str(path))
        return output.write(path, name, image, result, shown) | {"notes": list(notes)}

    def film(path: Path, name: str) -> Json:
        notes: list[tuple[str, str]] = []
        frames = count(1)

        def in_frame(image: Picture) -> Result:
            result, own = answer(path, image, f"{path}, frame {next(frames)}")
            notes.extend(own)
            return result

        target = output.folder / f"{name}.mp4"
        predict_film(in_frame, path, target, ids, options.threshold, options.limit, options.track)
        return {"notes": notes}

    with Work(options, {"classes": classes}) as work:
        work.photographs(photograph)
        work.films(film)
        work.journal.gather()
        if not is_main():
            return None
        done = finish(work, output, classes)
        nothing = not any(map(work.is_done, work.images))
        work.journal.remove()
    if nothing:
        raise UserError(f"none of the {'photographs' if work.stills else 'videos'} could be read")
    return done


def finish(work: "Work", output: Output, classes: list[Json]) -> Done:
    """Put predictions.json and details.json together from the journal; without photographs there is neither."""
    stills = [path for path in work.stills if work.is_done(path)]
    skipped = [(str(path), NO_IMAGE) for path in work.others]
    skipped += [(str(path), reason) for path in work.images if (reason := work.reason(path))]
    notes: list[tuple[str, str]] = []
    annotations = 0
    for content in (work.done(path) for path in work.images if work.is_done(path)):
        notes += [(name, reason) for name, reason in content["notes"]]
        annotations += len(content.get("annotations", ()))
    if work.stills:
        limit = work.options.report_images
        output.finish(lambda: map(work.done, stills), classes, skipped + notes, len(stills), limit)
    return Done(len(stills), annotations, len(skipped), len(notes))


class Work:
    """The images that a command line names, shared out over the processes, each noted when it is finished."""

    def __init__(self, options: Predict, settings: Json):
        """`settings` are what the results depend on beside the options."""
        join_processes()
        self.options, self.max_pixels = options, int(options.max_megapixels * 1e6)
        out = Path(options.out)
        found, self.others = find_images(options.images, out)
        self.stills = [path for path in found if not is_video(path)][: options.limit or None]
        self.videos = [path for path in found if is_video(path)]
        if options.trust and Path(options.weights).suffix != ".pt2":
            raise UserError(f"--trust: {options.weights} is no .pt2 file, and nothing in it runs; leave it out")
        if options.track and self.stills:
            raise UserError(f"--track: {self.stills[0]} is no film; name films only, or leave it out")
        self.images = self.stills + self.videos
        weights = fingerprint(Path(options.weights)) if is_main() else ""
        everything = asdict(options) | settings | {"weights": weights}
        mattering = {name: value for name, value in everything.items() if name not in NO_MATTER}
        self.journal = Journal(out / "journal", mattering, options.resume)
        self.names = self._name_outputs(self.stills) | self._name_outputs(self.videos)
        if is_main():
            for path in self.others:
                skip(path, NO_IMAGE)
            if line := described(self.stills, self.max_pixels):
                print(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.journal.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            raise UserError("interrupted; add --resume to the same command to go on") from None

    def _name_outputs(self, paths: Sequence[Path]) -> dict[Path, str]:
        """A name for each image's files; those that a stopped run has finished keep theirs."""
        kept = {path: self.done(path)["name"] for path in paths if self.is_done(path)}
        rest = [path for path in paths if path not in kept]
        return kept | dict(zip(rest, unique_names(rest, kept.values()), strict=True))

    def is_done(self, path: Path) -> bool:
        return f"done {path}" in self.journal.places

    def done(self, path: Path) -> Json:
        """What the journal holds of an image that is done."""
        return self.journal.read(f"done {path}")

    def reason(self, path: Path) -> str:
        """Why an image was skipped; empty if it wasn't."""
        key = f"skipped {path}"
        skipped = key in self.journal.places and not self.is_done(path)
        return str(self.journal.read(key)["reason"]) if skipped else ""

    def photographs(self, handle: Callable[[Path, str, Picture, bool], Json]) -> None:
        """handle(path, name, picture, whether the report shows it) -> what the journal is to hold."""
        left = self._left_here(self.stills)
        with Bar("predicting", len(left), show=is_main()) as bar:
            for number, path in left:
                try:
                    image = read_image(path, self.max_pixels)
                except UserError as error:
                    self._skip(path, str(error))
                else:
                    self._finish(path, handle(path, self.names[path], image, number < self.options.report_images))
                bar.advance()

    def films(self, handle: Callable[[Path, str], Json]) -> None:
        """handle(path, name) -> what the journal is to hold."""
        for _, path in self._left_here(self.videos):
            try:
                self._finish(path, handle(path, self.names[path]))
            except UserError as error:
                self._skip(path, str(error))

    def _left_here(self, paths: Sequence[Path]) -> list[tuple[int, Path]]:
        """What is left to this process, with each image's place in the list."""
        left = [(number, path) for number, path in enumerate(paths) if not self.is_done(path)]
        return left[process_index() :: process_count()]

    def _finish(self, path: Path, content: Json) -> None:
        self.journal.write(f"done {path}", {"name": self.names[path]} | content)

    def _skip(self, path: Path, reason: str) -> None:
        self.journal.write(f"skipped {path}", {"reason": skip(path, reason)})


def join_processes() -> None:
    """Those that torchrun started. They meet at the start and at the end, where the first waits for the last."""
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("gloo", timeout=timedelta(days=30))


def find_images(sources: Sequence[str], out: Path) -> tuple[list[Path], list[Path]]:
    """The images and videos to work on, and the folders' other files; without what an earlier run wrote."""
    inside = any(Path(source).resolve() in out.resolve().parents for source in sources)
    folders = [out.absolute()] if inside else [(out / kind).absolute() for kind in (*KINDS, *FORMATS)]
    files = {(out / name).absolute() for name in ("predictions.json", "details.json", "report.html")}

    def foreign(path: Path) -> bool:
        path = path.absolute()
        return path not in files and not any(path.is_relative_to(folder) for folder in folders)

    found = list_images(sources)
    images = [path for path in found if foreign(path)]
    if not images:
        raise UserError(f"{' '.join(sources)}: no image but those that were written to --out {out} before; name others")
    return images, [path for path in other_files(sources, found) if foreign(path)]


def other_files(sources: Sequence[str], found: Sequence[Path]) -> list[Path]:
    """The files in the named folders that are none of those found; hidden ones aside."""
    known = set(found)
    files = {path for source in sources for path in Path(source).rglob("*") if path.is_file()}
    return sorted(path for path in files - known if not path.name.startswith("."))


def fingerprint(path: Path) -> str:
    """Of a file's content."""
    return digest_of(path)[:16] if path.is_file() else ""


def skip(path: Path, reason: str) -> str:
    reason = reason.removeprefix(f"{path}: ")
    print(f"skipped: {path}: {reason}", file=sys.stderr)
    return reason


def unique_names(paths: Sequence[Path], taken: Iterable[str] = ()) -> list[str]:
    """A name for each photograph's outputs: its own, numbered where several folders use it."""
    known, names = set(taken), []
    counts: dict[str, int] = {}
    for path in paths:
        name = path.stem
        while name in known:
            counts[path.stem] = counts.get(path.stem, 1) + 1
            name = f"{path.stem}-{counts[path.stem]}"
        known.add(name)
        names.append(name)
    return names


def predict_one(model: Model[R], image: Picture, precision: str) -> R:
    with autocast(next(model.parameters()).device, precision):
        return model.predict([image])[0]
