"""The challenge's submission: relation.json, panseg/*.png and the zip; and what can be wrong with one.

python -m refinemask_psg.psg.submission check FILE.zip --annotations psg_val_test.json
python -m refinemask_psg.psg.submission score FILE.zip --annotations psg.json --images FOLDER
"""

import json
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from common.errors import UserError
from common.files import write_text
from maskworks.command_line import program
from refinemask_psg.psg.results import SceneGraph
from refinemask_psg.psg.submission_check import check_submission, open_submission
from refinemask_psg.psg.submission_score import score_submission

FOLDER = "submission"
Colour = tuple[int, int, int]


class SubmissionWriter:
    """Writes one image after the other into DIR/submission, and at last DIR/submission.zip."""

    def __init__(self, folder: Path, seed: int = 0):
        self.folder, self.random = Path(folder), random.Random(seed)
        self.entries: list[dict[str, Any]] = []
        panseg = self.folder / FOLDER / "panseg"
        panseg.mkdir(parents=True, exist_ok=True)
        for earlier in panseg.glob("[0-9]*.png"):
            earlier.unlink()

    def add(self, graph: SceneGraph, number: int | None = None) -> None:
        """The next image; its PNG has the image's number in the list of all images."""
        ids, infos = graph.panoptic.segments.cpu().numpy(), graph.panoptic.infos
        name = f"{len(self.entries) if number is None else number}.png"
        colours = colours_of(len(infos), self.random)
        picture = np.zeros((*ids.shape, 3), np.uint8)  # void is black
        for info, colour in zip(infos, colours, strict=True):
            picture[ids == info.id] = colour
        Image.fromarray(picture).save(self.folder / FOLDER / "panseg" / name)
        self.entries.append(
            {
                "relations": [[each.subject, each.object, each.predicate + 1] for each in graph.relations],
                "segments_info": [
                    {"category_id": info.label + 1, "id": red + 256 * green + 65536 * blue}
                    for info, (red, green, blue) in zip(infos, colours, strict=True)
                ],
                "pan_seg_file_name": name,
            }
        )

    def finish(self) -> Path:
        write_text(self.folder / FOLDER / "relation.json", json.dumps(self.entries))
        packed = self.folder / f"{FOLDER}.zip"
        unfinished = packed.with_suffix(".unfinished")
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in [*(f"panseg/{entry['pan_seg_file_name']}" for entry in self.entries), "relation.json"]:
                archive.write(self.folder / FOLDER / name, f"{FOLDER}/{name}")
        return unfinished.replace(packed)


def colours_of(count: int, source: random.Random) -> list[Colour]:
    """Random colours; unlike the original's never black, which is void, and never the same twice."""
    colours: list[Colour] = []
    while len(colours) < count:
        red, green, blue = source.choices(range(255), k=3)
        if (red, green, blue) != (0, 0, 0) and (red, green, blue) not in colours:
            colours.append((red, green, blue))
    return colours


@dataclass
class Check:
    """Say what is wrong with a submission."""

    file: Annotated[Path, tyro.conf.Positional]
    """The zip."""
    annotations: Path | None = None
    """psg_val_test.json: how many images there must be, and their sizes."""

    def run(self) -> None:
        submission = open_submission(self.file)
        faults, notes = check_submission(submission, self.annotations)
        for line in [*(f"note: {note}" for note in notes), *(f"fault: {fault}" for fault in faults)]:
            print(line)
        if faults:
            raise UserError(f"{self.file}: {len(faults)} faults; correct them before you submit it")
        print(f"{self.file}: {len(submission.entries)} images, no faults")


@dataclass
class Score:
    """Score a submission as the challenge does."""

    file: Annotated[Path, tyro.conf.Positional]
    """The zip."""
    annotations: Path
    """psg.json, or another file with the truth: its test images that have relations are scored, in its order."""
    images: Path
    """The folder that the panoptic PNGs' names start from."""

    def run(self) -> None:
        scores = score_submission(open_submission(self.file), self.annotations, self.images)
        for name in ("R@20", "mR@20", "PQ", "final"):
            print(f"{name}: {scores[name]:.6f}")


def main() -> None:
    verb: Check | Score = tyro.cli(Check | Score, prog="python -m refinemask_psg.psg.submission")
    verb.run()


if __name__ == "__main__":
    program.run(main)
