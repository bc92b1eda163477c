"""Photographs with a grey mask each: folders whose files are paired by name (DUTS), or the objects of COCO files."""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from common.data.coco import CocoDataset, Sample, pair_folders
from common.data.images import IMAGE_SUFFIXES, image_size, read_image
from common.errors import UserError
from common.run.distributed import is_main
from common.run.settings import Training
from maskworks import commands, shapes
from refinemask_psg.u2net.config import SaliencyData

SHOWN = 3  # faults of a data set
Matte = NDArray[np.uint8]  # [H, W], 255 where a photograph is salient


class Photographs(Dataset[Sample]):
    """Photographs and where each one's mask comes from, as training and evaluation take them: a LabelledImages."""

    class_names: tuple[str, ...] = ("foreground",)
    category_ids: tuple[int, ...] = (1,)

    def __init__(
        self, sources: list[Path], paths: list[Path], sizes: NDArray[np.int32], mattes: list[Path] | CocoDataset
    ):
        self.annotation_files, self.paths, self.sizes, self.mattes = sources, paths, sizes, mattes
        self.image_ids = np.arange(len(paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image, matte = read_image(self.paths[index]), self.matte(index)
        nothing, none = np.zeros(0, np.int64), np.zeros((0, *matte.shape), np.bool_)
        boxes = np.zeros((0, 4), np.float32)
        return Sample(image, boxes, nothing, none, nothing.astype(bool), None, index, self.paths[index], matte)

    def matte(self, index: int) -> Matte:
        """Of a COCO data set all objects together, crowds too."""
        if isinstance(self.mattes, CocoDataset):
            return np.where(self.mattes.masks(index).any(axis=0), 255, 0).astype(np.uint8)
        return read_mask(self.mattes[index])

    def path(self, index: int) -> Path:
        return self.paths[index]

    def polygons(self, index: int) -> list[list[NDArray[np.float32]]]:
        return []


def open_saliency(data: SaliencyData, split: shapes.Split, settings: Training) -> Photographs:
    """The training or validation set that the configuration names; without annotations, the built-in one."""
    filled = shapes.fill_in(data, split)
    images, annotations = commands.files_of(filled, split)
    files = [Path(each) for each in annotations]
    if any(path.is_dir() for path in files):
        return open_folders([Path(each) for each in images], files, data.faulty == "skip", settings.limit)
    dataset = commands.open_dataset(filled, split, settings)
    if not dataset.has_masks:
        raise UserError(f"{', '.join(map(str, files))}: boxes only; expected objects with masks, or a folder of masks")
    paths = [dataset.path(index) for index in range(len(dataset))]
    return Photographs(files, paths, dataset.sizes, dataset)


def open_folders(images: list[Path], masks: list[Path], skip: bool, limit: int) -> Photographs:
    """Folders of photographs and of masks, paired; in them files of the same name but for its ending."""
    found, faults = [], []
    for photographs, mattes in zip(pair_folders(images, masks), masks, strict=True):
        own, theirs = by_name(photographs), by_name(mattes)
        faults += [f"{mattes / name}.png: no photograph of this name in {photographs}" for name in theirs.keys() - own]
        for name, path in list(own.items())[: limit or None]:
            try:
                size = check_pair(path, theirs.get(name), mattes)
                found.append((path, theirs[name], size))
            except UserError as error:
                faults.append(str(error))
    faults.sort()
    if faults and (not skip or not found):
        more = f" | and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(" | ".join(faults[:SHOWN]) + more + "; correct them, or --data.faulty skip leaves them out")
    if faults and is_main():
        print(f"left out: {len(faults)} files without a counterpart that fits, as {faults[0]}", file=sys.stderr)
    paths, paired, sizes = zip(*found[: limit or None], strict=True)
    return Photographs(masks, list(paths), np.array(sizes, np.int32), list(paired))


def by_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their name without its ending, in its order."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with image files")
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
        if path.stem in found:
            raise UserError(f"{path}: {found[path.stem].name} has the same name; masks are found by it, rename one")
        found[path.stem] = path
    if not found:
        raise UserError(f"{folder}: no image in this folder")
    return found


def check_pair(photograph: Path, mask: Path | None, folder: Path) -> tuple[int, int]:
    """The photograph's size; only a mask that its header calls coloured is decoded for this."""
    if mask is None:
        raise UserError(f"{photograph}: no mask of this name in {folder}")
    size, other = image_size(photograph), image_size(mask)
    if size != other:
        raise UserError(f"{mask}: {other[1]} x {other[0]}, but {photograph} is {size[1]} x {size[0]}")
    with Image.open(mask) as header:
        grey = header.mode in ("1", "L", "I;16")
    if not grey:
        read_mask(mask)
    return size


def read_mask(path: Path) -> Matte:
    """A grey picture; one in three colours whose values are the same is grey too."""
    pixels = read_image(path)
    if (pixels != pixels[..., :1]).any():
        raise UserError(f"{path}: a mask in colour; expected a grey one, white where the photograph is salient")
    return pixels[..., 0]
