"""The built-in dataset: scenes drawn from a seed, on disk in the very formats of the real datasets.

python -m maskworks.shapes --out DIR --split val --count 40 --seed 3      writes a set somewhere, to look at

- instances.json: COCO instances, with occlusion, holes, crowds, small things, images without any.
- person_keypoints.json: the people among them with COCO's 17 keypoints.
- panoptic.json, panoptic/: COCO panoptic; every pixel belongs to a segment.
- psg.json: scene graphs as OpenPSG has them; its paths start from the split's folder.
- captions.json: a caption for each image, and which characters of it name a box, as MDETR and GLIP read it.
"""

import json
import secrets
import shutil
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from common.errors import UserError
from common.files import here_or_above, user_cache
from common.run.distributed import barrier, is_main
from common.run.settings import Data
from maskworks import shards
from maskworks.shapes.figures import HELD_OUT, Split
from maskworks.shapes.relations import PREDICATES
from maskworks.shapes.scene_files import KEYPOINT_NAMES, SKELETON, STUFF_IDS, THING_IDS, Entries, categories, collect
from maskworks.shapes.scenes import draw_scene

FORMAT = "shapes-v1"  # in the cache folder's name; count up when anything that is written changes
COUNTS: dict[Split, int] = {"train": 800, "val": 200}
FIRST_IMAGE_ID: dict[Split, int] = {"train": 1, "val": 100_001}
FASTEST = [cv2.IMWRITE_PNG_COMPRESSION, 1]


@dataclass(frozen=True)
class ShapesFolder:
    """Where one split lies."""

    root: Path

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def instances(self) -> Path:
        return self.root / "instances.json"

    @property
    def keypoints(self) -> Path:
        return self.root / "person_keypoints.json"

    @property
    def panoptic(self) -> Path:
        return self.root / "panoptic.json"

    @property
    def panoptic_folder(self) -> Path:
        return self.root / "panoptic"

    @property
    def scene_graph(self) -> Path:
        return self.root / "psg.json"

    @property
    def captions(self) -> Path:
        return self.root / "captions.json"


def fill_in(data: Data, *splits: Split, annotations: str = "instances") -> Data:
    """The data that a configuration names; for the splits for which it names none, the built-in set, drawn if need be.

    `annotations` is one of ShapesFolder's files.
    """
    if data.path or data.recipe:
        raise UserError(
            "--data is not for saliency, but for what learns objects, joints, panoptic maps, captions, relations; "
            f"here say where the files are: --data.{splits[0]}.images and --data.{splits[0]}.annotations"
        )
    filled = deepcopy(data)
    for split in splits:
        named = filled.train if split == "train" else filled.val
        if named.images or named.annotations:
            named.images, named.annotations = map(here_or_above, (named.images, named.annotations))
            continue
        if is_main():
            ensure(split, data.seed)  # one process draws, the others find it done
        barrier()
        made = ensure(split, data.seed)
        folder = made.root if annotations == "scene_graph" else made.images  # where PSG's file names start
        named.images, named.annotations = [str(folder)], [str(getattr(made, annotations))]
    return shards.at_hand(filled)


def ensure(split: Split, seed: int = 0, count: int | None = None, cache: Path | None = None) -> ShapesFolder:
    """The split's folder in the cache, drawn now if it isn't there; several processes may ask at once."""
    _check(split, seed, count)
    number = COUNTS[split] if count is None else count
    root = (user_cache() if cache is None else cache) / FORMAT / f"{split}-seed{seed}-{number}"
    return ShapesFolder(root) if root.is_dir() else write(root, split, seed, number)


def write(root: Path, split: Split, seed: int, count: int) -> ShapesFolder:
    """Draws a split into a temporary folder beside `root`, then renames it: `root` is never half-written."""
    _check(split, seed, count)
    draft = ShapesFolder(root.with_name(f".{root.name}.{secrets.token_hex(6)}"))
    try:
        draft.images.mkdir(parents=True)
        draft.panoptic_folder.mkdir()
        _fill_folder(draft, split, seed, count)
        draft.root.rename(root)
    except OSError as error:
        if not root.is_dir():  # otherwise another process was faster, and what it drew is the same
            raise UserError(
                f"{root}: cannot write the built-in dataset there ({error.strerror or error}), choose another folder"
            ) from error
    finally:
        shutil.rmtree(draft.root, ignore_errors=True)
    return ShapesFolder(root)


def _check(split: Split, seed: int, count: int | None) -> None:
    if split not in COUNTS:
        raise UserError(f"the built-in dataset has the splits {' and '.join(COUNTS)}, not {split!r}")
    if not 0 <= seed < 2**32:
        raise UserError(f"the built-in dataset's seed must be in 0..{2**32 - 1}, it is {seed}")
    if count is not None and not 1 <= count < FIRST_IMAGE_ID["val"]:
        raise UserError(f"a split of the built-in dataset has 1..{FIRST_IMAGE_ID['val'] - 1} images, not {count}")


def _fill_folder(folder: ShapesFolder, split: Split, seed: int, count: int) -> None:
    entries = Entries()
    console = Console(stderr=True)
    text, quiet = f"Drawing the built-in {split} images", not console.is_terminal
    for number in track(range(count), text, console=console, transient=True, disable=quiet):
        scene = draw_scene(seed, split, number)
        image_id = FIRST_IMAGE_ID[split] + number
        name = f"{image_id:012d}.png"
        _save_png(folder.images / name, scene.image)
        _save_png(folder.panoptic_folder / name, collect(entries, scene, image_id, name))
    for path, content in _annotation_files(folder, entries, split, seed).items():
        path.write_text(json.dumps(content), encoding="utf-8")


def _save_png(path: Path, image: NDArray[np.uint8]) -> None:
    # encoded first: OpenCV's own writing fails silently, and on Windows for names outside of the code page
    path.write_bytes(cv2.imencode(".png", image[:, :, ::-1], FASTEST)[1].tobytes())


def _annotation_files(folder: ShapesFolder, entries: Entries, split: Split, seed: int) -> dict[Path, Any]:
    info = {"description": "maskworks shapes", "version": FORMAT, "split": split, "seed": seed}
    licenses = [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}]
    head = {"info": info, "licenses": licenses, "images": entries.images}
    segments = categories()
    things = [{key: c[key] for key in ("supercategory", "id", "name")} for c in segments if c["isthing"]]
    people = [{**things[0], "keypoints": KEYPOINT_NAMES, "skeleton": SKELETON}]
    held_out = {"info": {**info, "held_out": sorted(HELD_OUT)}, "images": entries.captions}
    return {
        folder.instances: {**head, "annotations": entries.instances, "categories": things},
        folder.keypoints: {**head, "annotations": entries.people, "categories": people},
        folder.panoptic: {**head, "annotations": entries.panoptic, "categories": segments},
        folder.captions: {**head, **held_out, "annotations": entries.phrases, "categories": things},
        folder.scene_graph: {
            "data": entries.scene_graphs,
            "thing_classes": list(THING_IDS),
            "stuff_classes": list(STUFF_IDS),
            "predicate_classes": PREDICATES,
            # OpenPSG's file holds all splits, and these are the images that are not for training
            "test_image_ids": [e["image_id"] for e in entries.scene_graphs] if split == "val" else [],
        },
    }
