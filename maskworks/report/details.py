"""What a run, or a set of predictions, leaves in details.json for whoever shows it; pictures lie in files beside it."""

import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from PIL import Image

from common.drawing import Picture
from common.errors import UserError
from common.files import naming, read_bytes, write_text
from common.results import Instances, Result
from maskworks.report.examples import Example
from maskworks.report.mistakes import Mistakes

FILE = "details.json"
READABLE = 480  # pixels of the long side: on anything smaller the names hide what they name
T = TypeVar("T")


class Pair(Struct):
    """A validation image: drawings of what is there and of what was found, and how much that is."""

    name: str
    truth: str  # files, from the folder of details.json
    prediction: str
    annotated: int
    predicted: int


class RunDetails(Struct):
    """Of a training run, beside log.jsonl, config.yaml and metrics.json."""

    title: str
    threshold: float  # predictions are drawn and counted from this score
    examples: list[Pair] = []  # the worst images, the worst first
    per_class: dict[str, dict[str, float | None]] = {}  # name of a score -> class -> its value
    precision: dict[str, list[float | None]] = {}  # class -> precision at rising recall
    class_names: tuple[str, ...] = ()
    confusion: list[list[int]] = []  # as in Mistakes, as the next two
    quality: list[float] = []
    counted_from: float | None = None
    command: str = ""  # how to repeat the run


class Shown(Struct):
    """A photograph and what was found: its drawings' files, and each object's class and score."""

    name: str
    pictures: list[str] = []
    labels: list[int] = []
    scores: list[float] = []


class PredictionDetails(Struct):
    """Of a set of predictions."""

    title: str
    threshold: float
    class_names: list[str]
    shown: list[Shown]
    skipped: list[tuple[str, str]]  # file, why


def write_run_details(
    folder: Path,
    title: str,
    examples: Sequence[Example],
    mistakes: Mistakes,
    per_class: Mapping[str, Mapping[str, float]],
    precision: Mapping[str, NDArray[np.floating[Any]]],
    threshold: float,
) -> None:
    """Draw the examples into RUN/examples and write RUN/details.json."""
    write(
        folder,
        RunDetails(
            title,
            threshold,
            [draw_pair(folder, number, example, threshold) for number, example in enumerate(examples, start=1)],
            {kind: numbers(values) for kind, values in per_class.items()},
            {name: list(numbers(dict(enumerate(values.tolist()))).values()) for name, values in precision.items()},
            mistakes.class_names,
            mistakes.confusion.tolist(),
            mistakes.quality.tolist(),
            mistakes.threshold,
            shlex.join(["python", *sys.orig_argv[1:]]),
        ),
    )


def draw_pair(folder: Path, number: int, example: Example, threshold: float) -> Pair:
    """An example's two pictures, small photographs enlarged."""
    scale, truth = readable_scale(example.image), example.truth
    if isinstance(truth, Instances):  # what people annotated has no scores to show
        drawing = truth.draw(example.image, threshold=-math.inf, scale=scale, with_scores=False)
    else:
        drawing = truth.draw(example.image, threshold=-math.inf, scale=scale)
    files = f"examples/{number:02}-truth.jpg", f"examples/{number:02}-prediction.jpg"
    save_picture(folder / files[0], drawing)
    save_picture(folder / files[1], example.prediction.draw(example.image, threshold, scale=scale))
    return Pair(example.name, *files, count(truth, -math.inf), count(example.prediction, threshold))


def count(result: Result, threshold: float) -> int:
    return sum(score >= threshold for score in result.labels_and_scores()[1])


def numbers(values: Mapping[Any, float]) -> dict[Any, float | None]:
    """For JSON, which has no nan."""
    return {key: None if math.isnan(value) else float(value) for key, value in values.items()}


def save_picture(path: Path, picture: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path):
        picture.convert("RGB").save(path, "JPEG", quality=90)


def write(folder: Path, details: RunDetails | PredictionDetails) -> None:
    write_text(folder / FILE, msgspec.json.encode(details).decode() + "\n")


def read(folder: Path, kind: type[T]) -> T:
    path = folder / FILE
    try:
        return msgspec.json.decode(read_bytes(path), type=kind)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a run or predictions that left their details") from error
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: not the details of a run or of predictions ({error})") from error


def readable_scale(picture: Picture) -> int:
    """By how much to enlarge a small picture before it is drawn on."""
    long_side: int = max(picture.shape[:2])
    return max(1, READABLE // long_side)
