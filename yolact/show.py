"""What eval.py does besides scoring: photographs, folders and videos with what was found drawn onto them."""

import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from common.data.images import is_video, list_images, read_frames, read_image
from common.errors import UserError
from common.ops.precision import autocast
from common.results import Instances
from common.run.ranges import Count, Share
from common.run.runlog import Bar
from maskworks.prediction.film import frame_rate, write_video
from yolact.network import YOLACT

Picture = NDArray[np.uint8]  # [H, W, 3] RGB
FRAMES_AVERAGED = 30  # for the speed that is written onto a video


@dataclass
class Show:
    """Draw what YOLACT finds, or measure how fast it is; without one of these four, eval.py scores."""

    image: tuple[str, ...] = ()
    """A photograph and the file to write: IN OUT or IN:OUT; IN alone: a new file beside it, which is named."""
    images: tuple[str, ...] = ()
    """A folder of photographs and the folder to write to, likewise."""
    video: tuple[str, ...] = ()
    """A video and the MP4 to write, with the measured frames per second on every frame, likewise."""
    benchmark: bool = False
    """Print milliseconds and frames per second of each stage, with percentiles."""
    photographs: list[str] = field(default_factory=list)
    """What to measure with: files, folders, globs; without any, scenes of the built-in data set."""
    max_images: Count = 100
    """Measure with so many of them."""
    weights: str = ""
    """A checkpoint of ours; without it: best.safetensors of the default run."""
    score_threshold: Share = 0.15
    """Instances that score less are not drawn."""
    top_k: Count = 15
    """Draw at most so many instances, the best."""
    batch_size: Count = 1
    """Frames of a video that go through the network together."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the best there is."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the forward pass."""


def show_image(model: YOLACT, options: Show) -> None:
    source, target = pair(options.image, "--image", ".png")
    target.parent.mkdir(parents=True, exist_ok=True)
    find_and_draw(model, [read_image(source)], options)[0].save(target)
    print(f"written: {target.resolve()}")


def show_images(model: YOLACT, options: Show) -> None:
    """Every photograph of a folder, under the same path in the other; what can't be read is named and skipped."""
    source, target = pair(options.images, "--images", "")
    if not source.is_dir():
        raise UserError(f"--images {source}: no such folder; for a single photograph there is --image")
    paths = [path for path in list_images([str(source)]) if not is_video(path)]
    done = 0
    with Bar("drawing", len(paths)) as bar:
        for path in paths:
            try:
                drawn = find_and_draw(model, [read_image(path)], options)[0]
            except UserError as error:
                print(f"skipped: {error}")
            else:
                out = target / path.relative_to(source)
                out.parent.mkdir(parents=True, exist_ok=True)
                drawn.save(out)
                done += 1
            bar.advance()
    if not done:
        raise UserError(f"--images {source}: none of its {len(paths)} photographs could be read")
    print(f"{done} of {len(paths)} photographs written to {target.resolve()}")


def show_video(model: YOLACT, options: Show) -> None:
    source, target = pair(options.video, "--video", ".mp4")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_video(target, drawn_frames(model, source, options), frame_rate(source))
    print(f"written: {target.resolve()}")


def drawn_frames(model: YOLACT, source: Path, options: Show) -> Iterator[Picture]:
    """The video's frames, drawn onto, with the speed of the last of them: all that finding and drawing takes."""
    frames = read_frames(source)
    recent: deque[tuple[int, float]] = deque(maxlen=-(-FRAMES_AVERAGED // options.batch_size))
    while batch := list(islice(frames, options.batch_size)):
        began = time.perf_counter()
        pictures = [np.array(picture) for picture in find_and_draw(model, batch, options)]
        recent.append((len(batch), time.perf_counter() - began))
        speed = sum(count for count, _ in recent) / sum(seconds for _, seconds in recent)
        for picture in pictures:
            yield with_speed(picture, speed)


def with_speed(picture: Picture, frames_per_second: float) -> Picture:
    """The picture with its speed in the upper left corner, white on black."""
    text, font, scale = f"{frames_per_second:.1f} FPS", cv2.FONT_HERSHEY_SIMPLEX, 0.6
    (width, height), _ = cv2.getTextSize(text, font, scale, 1)
    cv2.rectangle(picture, (0, 0), (width + 8, height + 10), (0, 0, 0), -1)
    cv2.putText(picture, text, (4, height + 4), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return picture


def find_and_draw(model: YOLACT, images: Sequence[Picture], options: Show) -> list[Image.Image]:
    with autocast(model.priors.device, options.precision):
        results = model.predict(images)
    return [best(result, options.top_k).draw(threshold=options.score_threshold) for result in results]


def best(result: Instances, count: int) -> Instances:
    """The instances with the highest scores; in YOLACT++ it is the masks' scores that decide what is shown."""
    scores = result.scores if result.mask_scores is None else result.mask_scores
    order = scores.argsort(descending=True, stable=True)[:count]
    return replace(result.select(order), scores=scores[order])


def pair(words: Sequence[str], flag: str, suffix: str) -> tuple[Path, Path]:
    """What is read and what is written: two words, one with a colon between them, or only what is read."""
    if len(words) == 1 and ":" in words[0] and not Path(words[0]).exists():
        words = words[0].rsplit(":", 1)
    if len(words) > 2 or not all(words):
        raise UserError(f"{flag} {' '.join(words)}: expected what to read and what to write, as IN, IN OUT or IN:OUT")
    source = Path(words[0])
    target = Path(words[1]) if len(words) == 2 else beside(source, suffix)
    if target.resolve() == source.resolve():
        raise UserError(f"{flag} {' '.join(words)}: would be written over what is read; name another place")
    return source, target


def beside(source: Path, suffix: str) -> Path:
    """A name next to the source's that nothing has yet: street_found.png, street_found-1.png."""
    folder, stem = source.resolve().parent, source.resolve().stem if suffix else source.resolve().name
    names = (f"{stem}_found{f'-{number}' if number else ''}{suffix}" for number in itertools.count())
    return next(path for name in names if not (path := folder / name).exists())
