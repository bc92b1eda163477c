"""CocoDataset: any COCO-format JSON and its images; checked while loading, compact, decoded on demand.

- Everything is in numpy columns, so that loader workers share it and grow by nothing.
- Faults that would make training wrong stop it; annotations that cannot be used are left out with a count.
- Several files are a union: their images and annotations are numbered anew, so that ids may overlap.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from common.data.annotation_checks import check_files, check_image, read_annotations
from common.data.annotation_files import (
    Annotations,
    CategoryEntry,
    Fault,
    Int,
    RleEntry,
    Segmentation,
    decode_segmentation,
)
from common.errors import UserError
from common.files import leads_inside
from common.ops import masks as rle

SHOWN_FAULTS = 3
Reader = Callable[[Path], tuple[Annotations, str]]  # a file -> what is in it, and in words what is left out of it
log = logging.getLogger(__name__)


@dataclass
class Sample:
    """One image with its ground truth."""

    image: NDArray[np.uint8]  # [H, W, 3] RGB
    boxes: NDArray[np.float32]  # [n, 4] x1, y1, x2, y2 (x2 = x1 + width)
    labels: NDArray[np.int64]  # [n] index into class_names
    masks: NDArray[np.bool_]  # [n, H, W]; all False where the files have boxes only
    crowd: NDArray[np.bool_]  # [n]
    keypoints: NDArray[np.float32] | None  # [n, K, 3] x, y, visibility
    image_id: int
    path: Path
    semantic: NDArray[np.uint8] | None = None  # [H, W] class of each pixel, 255 without one; of panoptic data sets
    relations: NDArray[np.int64] | None = None  # [R, 3] subject, object (indices of objects here), predicate


class LabelledImages(Protocol):
    """What training and evaluation need of a data set; CocoDataset offers it, and PanopticDataset does."""

    annotation_files: list[Path]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_ids: Int
    sizes: NDArray[np.int32]  # [images, 2] height, width

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def path(self, index: int) -> Path: ...

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]: ...


class AnnotatedImages(LabelledImages, Protocol):
    """What COCO's mAP is computed on."""

    def annotations_json(self) -> dict[str, Any]: ...


class CocoDataset(Dataset[Sample]):
    """The images of COCO annotation files, in the files' order; images without annotations are kept or not.

    Image folders and annotation files are paired; one folder may serve all files. None: nobody looks at the pictures.
    Commands `read` the files by maskworks/shards/columns.py, which keeps what is in large ones.
    """

    def __init__(
        self,
        images: Sequence[str | Path] | None,
        annotations: Sequence[str | Path],
        *,
        limit: int | None = None,
        keep_empty: bool = True,
        read: Reader | None = None,
    ) -> None:
        if limit is not None and limit < 1:
            raise UserError(f"limit {limit}: expected at least 1 image, or no limit")
        self.annotation_files = as_paths(annotations)
        self.folders = pair_folders(as_paths(Path() if images is None else images), self.annotation_files)
        files = [load(path, read or read_usable) for path in self.annotation_files]
        self.categories = _same_categories(files, self.annotation_files)
        self.class_names = tuple(category.name for category in self.categories)
        self.category_ids = tuple(category.id for category in self.categories)
        self._join_images(files, keep_empty, limit)
        self._join_annotations(files)
        if images is not None:
            self._check_files()

    def _join_images(self, files: list[Annotations], keep_empty: bool, limit: int | None) -> None:
        counts = [np.bincount(f.image_index[f.usable], minlength=len(f.image_ids)) for f in files]
        self.empty_images = sum(int((count == 0).sum()) for count in counts)
        every = np.concatenate([np.full(len(f.image_ids), at) for at, f in enumerate(files)])
        local = np.concatenate([np.arange(len(f.image_ids)) for f in files])
        kept = np.flatnonzero(np.concatenate(counts) > 0) if not keep_empty else np.arange(len(every))
        kept = kept[:limit]
        if not len(kept):
            problem = "no image" if keep_empty else "no image with annotations"
            raise UserError(f"{_join(self.annotation_files)}: {problem} in it; nothing to load, check the file")
        self._file_of = every[kept]
        self._local = local[kept]  # each image's place in its file
        single = len(files) == 1
        ids = np.concatenate([f.image_ids for f in files]) if single else np.arange(1, len(every) + 1)
        self.image_ids: Int = ids[kept]
        self.sizes: NDArray[np.int32] = np.concatenate([f.sizes for f in files])[kept]
        names = [files[at].file_names[i].encode() for at, i in zip(self._file_of, self._local, strict=True)]
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._name_ends = np.cumsum([len(name) for name in names])

    def _join_annotations(self, files: list[Annotations]) -> None:
        image, chosen = [], []
        for at, f in enumerate(files):
            place = np.full(len(f.image_ids), -1)
            place[self._local[self._file_of == at]] = np.flatnonzero(self._file_of == at)
            wanted = np.flatnonzero(f.usable & (place[f.image_index] >= 0)) if len(place) else np.zeros(0, np.int64)
            image.append(place[f.image_index[wanted]])
            chosen.append(wanted)
        images = np.concatenate(image)
        as_it_is = len(files) == 1 and len(images) == len(files[0].ids) and bool((np.diff(images) >= 0).all())
        order: Int | slice = slice(None) if as_it_is else np.argsort(images, kind="stable")  # no copies
        self.offsets: Int = np.searchsorted(images[order], np.arange(len(self.image_ids) + 1))

        def column(name: str) -> NDArray[Any]:
            if as_it_is:
                only: NDArray[Any] = getattr(files[0], name)
                return only
            return np.concatenate([getattr(f, name)[wanted] for f, wanted in zip(files, chosen, strict=True)])[order]

        self.boxes: NDArray[np.float64] = column("boxes")  # [A, 4] x, y, width, height, as in the file
        self.labels: Int = column("labels")
        self.crowd: NDArray[np.bool_] = column("crowd")
        self.areas: NDArray[np.float64] = column("areas")  # [A] NaN where the file has none
        self.source_ids: Int = column("ids")  # [A] in their own file
        self.has_masks = any(bool((f.kinds != 0).any()) for f in files)
        self.keypoints = files[0].keypoints if as_it_is else _join_keypoints(files, chosen, self.annotation_files)
        if self.keypoints is not None:
            self.keypoints = self.keypoints[order]
        self._text, begins, ends = _join_text(files, chosen)
        self._begins, self._ends = begins[order], ends[order]

    def _check_files(self) -> None:
        for at, (folder, file) in enumerate(zip(self.folders, self.annotation_files, strict=True)):
            chosen = np.flatnonzero(self._file_of == at)
            ids = self.image_ids[chosen].tolist()
            stop_at_fatal(file, check_files(folder, ids, (self.name(i) for i in chosen.tolist())))

    def __len__(self) -> int:
        return len(self.image_ids)

    def path(self, index: int) -> Path:
        return self.folders[int(self._file_of[index])] / self.name(index)

    def counts(self) -> tuple[Int, Int]:
        """Of each image, how many objects its commonest class has, and how many there are; crowds aside."""
        image = np.repeat(np.arange(len(self)), np.diff(self.offsets))[~self.crowd]
        pairs, counts = np.unique(np.stack([image, self.labels[~self.crowd]]), axis=1, return_counts=True)
        of_class = np.zeros(len(self), np.int64)
        np.maximum.at(of_class, pairs[0], counts)
        return of_class, np.bincount(image, minlength=len(self))

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        image = self.image(index)
        own = slice(self.offsets[index], self.offsets[index + 1])
        corners = self.boxes[own].copy()
        corners[:, 2:] += corners[:, :2]
        return Sample(
            image,
            corners.astype(np.float32),
            self.labels[own].copy(),
            self.masks(index),
            self.crowd[own].copy(),
            None if self.keypoints is None else self.keypoints[own].astype(np.float32),
            int(self.image_ids[index]),
            self.path(index),
        )

    def image(self, index: int) -> NDArray[np.uint8]:
        """The picture [H, W, 3], if it is as the annotations say."""
        path = self.path(index)
        if not leads_inside(path, path_root := self.folders[self._file_of[index]].resolve()):
            raise UserError(f"{path}: leads out of the images folder {path_root}; use a path inside of it")
        return check_image(path, *self.sizes[index].tolist())

    def masks(self, index: int) -> NDArray[np.bool_]:
        """The masks of one image [n, H, W], without reading the image."""
        height, width = self.sizes[index].tolist()
        codes = [self.code(at, height, width) for at in range(self.offsets[index], self.offsets[index + 1])]
        drawn = [code for code in codes if code is not None]
        if drawn and len(drawn) == len(codes):
            return rle.decode(drawn)
        masks = np.zeros((len(codes), height, width), bool)
        if drawn:
            masks[[code is not None for code in codes]] = rle.decode(drawn)
        return masks

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        """The outlines [P, 2] of each object of one image; none for an object that is given as RLE."""
        height, width = self.sizes[index].tolist()
        found = []
        for annotation in range(self.offsets[index], self.offsets[index + 1]):
            segmentation = self.segmentation(annotation)
            outlines = segmentation if isinstance(segmentation, list) else []
            if outlines and (problem := rle.check_polygons(outlines, height, width)):
                raise self._fault(annotation, problem)
            found.append([np.array(outline, np.float32).reshape(-1, 2) for outline in outlines])
        return found

    def annotations_json(self, some: Iterable[int] | None = None) -> dict[str, Any]:
        """What evaluation needs of exactly these images, or some of them, as a COCO object; ids as in a single file."""
        single = len(self.annotation_files) == 1
        images, annotations = [], []
        for index in range(len(self)) if some is None else some:
            image_id, (height, width) = int(self.image_ids[index]), self.sizes[index].tolist()
            images.append({"id": image_id, "file_name": self.name(index), "height": height, "width": width})
            for at in range(self.offsets[index], self.offsets[index + 1]):
                identity = int(self.source_ids[at]) if single else at + 1
                annotations.append({"id": identity, "image_id": image_id} | self._annotation(at, height, width))
        categories = [_without_none(msgspec.to_builtins(category)) for category in self.categories]
        return {"images": images, "annotations": annotations, "categories": categories}

    def _annotation(self, at: int, height: int, width: int) -> dict[str, Any]:
        box = self.boxes[at].tolist()
        entry = {
            "category_id": self.category_ids[self.labels[at]],
            "bbox": box,
            "area": float(self.areas[at]),
            "iscrowd": int(self.crowd[at]),
        }
        segmentation = self.segmentation(at)
        if isinstance(segmentation, RleEntry):
            entry["segmentation"] = self.code(at, height, width)
        elif segmentation:
            entry["segmentation"] = segmentation
        if np.isnan(self.areas[at]):
            code = self.code(at, height, width)
            entry["area"] = box[2] * box[3] if code is None else float(rle.area([code])[0])
        if self.keypoints is not None:
            entry["keypoints"] = self.keypoints[at].ravel().tolist()
            entry["num_keypoints"] = int((self.keypoints[at, :, 2] > 0).sum())
        return entry

    def name(self, index: int) -> str:
        """As the file has it."""
        begin = self._name_ends[index - 1] if index else 0
        return self._names[begin : self._name_ends[index]].tobytes().decode()

    def segmentation(self, at: int) -> Segmentation:
        segmentation = decode_segmentation(self._text[self._begins[at] : self._ends[at]].data)
        if isinstance(segmentation, list):
            return [polygon for polygon in segmentation if len(polygon) >= 6]
        return segmentation

    def code(self, at: int, height: int, width: int) -> rle.Rle | None:
        segmentation = self.segmentation(at)
        if not segmentation:
            return None
        try:
            if not isinstance(segmentation, RleEntry):
                return rle.from_polygons(segmentation, height, width)
            if isinstance(segmentation.counts, list):
                return rle.from_counts(segmentation.counts, height, width)
        except UserError as error:
            raise self._fault(at, error) from error
        return {"size": [height, width], "counts": segmentation.counts}

    def _fault(self, at: int, problem: object) -> UserError:
        image = int(np.searchsorted(self.offsets, at, side="right")) - 1
        file = self.annotation_files[self._file_of[image]]
        return UserError(f"{file}: annotation {self.source_ids[at]}: {problem}; correct or remove it")


def load(path: Path, read: Reader) -> Annotations:
    """Read and check one file: stop at fatal faults, say in one line what is left out."""
    annotations, left_out = read(path)
    if left_out:
        log.warning("%s: left out %s; to see which: %s", path, left_out, _doctor(path))
    return annotations


def read_usable(path: Path) -> tuple[Annotations, str]:
    annotations, faults = read_annotations(path)
    stop_at_fatal(path, faults)
    left_out = Counter(fault.kind for fault in faults if fault.severity == "dropped")
    return annotations, ", ".join(f"{count} x {kind}" for kind, count in left_out.items())


def stop_at_fatal(path: Path, faults: list[Fault]) -> None:
    fatal = [fault for fault in faults if fault.severity == "fatal"]
    if not fatal:
        return
    message = " | ".join(map(str, fatal[:SHOWN_FAULTS]))
    if len(fatal) > SHOWN_FAULTS:
        message += f" | {len(fatal)} faults in all, to see them: {_doctor(path)}"
    raise UserError(f"{path}: {message}")


def _doctor(path: Path) -> str:
    return f"python scripts/check_dataset.py {path}"


def _join(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths))


def as_paths(values: Sequence[str | Path] | str | Path) -> list[Path]:
    return [Path(values)] if isinstance(values, str | Path) else [Path(value) for value in values]


def pair_folders(folders: list[Path], files: list[Path]) -> list[Path]:
    if not files:
        raise UserError("no annotation file given; expected at least one COCO-format JSON")
    if len(folders) not in (1, len(files)):
        raise UserError(
            f"{len(folders)} images folders for {len(files)} annotation files ({_join(files)}); "
            "give one folder for all files or one for each"
        )
    return folders * len(files) if len(folders) == 1 else folders


def _same_categories(files: list[Annotations], paths: list[Path]) -> list[CategoryEntry]:
    lists = [[(category.id, category.name) for category in f.categories] for f in files]
    for at, own in enumerate(lists):
        if own != lists[0]:
            raise UserError(
                f"{paths[at]}: its categories are not those of {paths[0]}, a union needs the same; "
                f"give them the same ids and names. {paths[0]}: {lists[0]}. {paths[at]}: {own}"
            )
    return files[0].categories


def _join_keypoints(files: list[Annotations], chosen: list[Int], paths: list[Path]) -> NDArray[np.float64] | None:
    counts = {f.keypoints.shape[1]: path for f, path in zip(files, paths, strict=True) if f.keypoints is not None}
    if not counts:
        return None
    if len(counts) > 1:
        described = ", ".join(f"{count} in {path}" for count, path in counts.items())
        raise UserError(f"the files have different numbers of keypoints ({described}); a union needs the same")
    shape = (next(iter(counts)), 3)
    parts = [
        np.zeros((len(wanted), *shape)) if f.keypoints is None else f.keypoints[wanted]
        for f, wanted in zip(files, chosen, strict=True)
    ]
    return np.concatenate(parts)


def _join_text(files: list[Annotations], chosen: list[Int]) -> tuple[NDArray[np.uint8], Int, Int]:
    """The segmentations' text in one buffer, and where each begins and ends."""
    if len(files) == 1 and len(chosen[0]) > 0.9 * len(files[0].ids):
        ends = files[0].text_ends
        return files[0].text, np.concatenate([[0], ends[:-1]])[chosen[0]], ends[chosen[0]]
    parts = [
        f.text[begin:end]
        for f, wanted in zip(files, chosen, strict=True)
        for begin, end in zip(np.concatenate([[0], f.text_ends])[wanted], f.text_ends[wanted], strict=True)
    ]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    text = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return text, np.concatenate([[0], ends[:-1]]) if len(ends) else ends, ends


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}
