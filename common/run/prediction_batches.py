"""Prediction in batches: images whose padded sizes agree go through the network together."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from common.data.batches import Prepared
from common.data.images import from_pillow, is_video, list_images, on_white, read_frames, read_image
from common.errors import UserError
from common.ops.precision import autocast
from common.results import Instances, PictureSource
from common.run.model import Picture, Source

AT_ONCE = 8  # photographs of an iterator, on a GPU; on a processor batches gain nothing
Answers = TypeVar("Answers")
P = ParamSpec("P")


class OfPicture(Protocol):
    """A result remembers its photograph, to draw on it."""

    image: PictureSource


class Network(Protocol):
    """What is asked of a model here."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def parameters(self) -> Iterator[nn.Parameter]: ...


M = TypeVar("M", bound=Network)
R = TypeVar("R", bound=OfPicture)


def predict_in_groups(
    images: Sequence[Source],
    preprocess: Callable[[NDArray[np.uint8]], Prepared],
    answer: Callable[[Tensor], Answers],
    result: Callable[[Answers, int, Prepared], R],
    device: torch.device,
) -> list[R]:
    """preprocess(image) -> network input; answer(inputs [N, 3, H, W]); result(answers, row, prepared) for each image.

    Images of other padded sizes don't share a batch, since padding further would move the coordinates and borders
    that a network sees and so change its answers.
    """
    arrays = [as_picture(image) for image in images]
    prepared = [preprocess(array) for array in arrays]
    groups: dict[torch.Size, list[int]] = {}
    for index, item in enumerate(prepared):
        groups.setdefault(item.tensor.shape, []).append(index)
    results: dict[int, R] = {}
    for indices in groups.values():
        batch = torch.stack([prepared[index].tensor for index in indices]).to(device, non_blocking=True)
        answers = answer(batch)
        for row, index in enumerate(indices):
            results[index] = result(answers, row, prepared[index])
            source = images[index]
            results[index].image = Path(source) if isinstance(source, str | Path) else arrays[index]
    return [results[index] for index in range(len(arrays))]


def one_or_many(
    predict: Callable[Concatenate[M, Sequence[Source], P], Sequence[Any]],
) -> Callable[Concatenate[M, Any, P], Any]:
    """A network's `predict` of a list for whatever is asked: one photograph -> its result; a list -> a list.

    A folder, a video and any other iterable -> an iterator, which holds a batch at a time, whatever their number.
    """

    @functools.wraps(predict)
    def of_any(model: M, images: Any, /, *more: P.args, **named: P.kwargs) -> Any:
        def of_list(some: Sequence[Source]) -> Sequence[Any]:
            device, precision = next(model.parameters()).device, getattr(model, "precision", "fp32")
            if precision == "fp32":  # or as a command has set it around this
                found = predict(model, some, *more, **named)
            else:
                with autocast(device, precision):
                    found = predict(model, some, *more, **named)
            for result in found:
                if isinstance(result, Instances) and result.class_names == model.class_names:
                    result.category_ids = model.category_ids
            return found

        def of_iterator(many: Iterable[Source]) -> Iterator[Any]:
            rest, count = iter(many), AT_ONCE if next(model.parameters()).is_cuda else 1
            while some := list(islice(rest, count)):
                yield from of_list(some)

        if isinstance(images, Sequence) and not isinstance(images, str):
            return of_list(images)
        if isinstance(images, str | Path) and Path(images).is_dir():
            return of_iterator(path for path in list_images([str(images)]) if not is_video(path))
        if isinstance(images, str | Path) and is_video(images):
            return of_iterator(read_frames(images))
        if isinstance(images, str | Path | np.ndarray | Tensor | Image.Image):
            return of_list([images])[0]
        return of_iterator(images)

    return of_any


def as_picture(source: Source) -> Picture:
    """[H, W, 3] RGB, of a file or of pixels: Pillow's, NumPy's [H, W, C], torch's, [C, H, W] too; grey, RGB or RGBA."""
    if isinstance(source, str | Path):
        return read_image(Path(source))
    if isinstance(source, Image.Image):
        return from_pillow(source)
    if not isinstance(source, np.ndarray | Tensor):
        raise UserError(f"a picture is a {type(source).__name__}; expected a path, or pixels of Pillow, NumPy or torch")
    pixels = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    shape, channels = list(pixels.shape), (1, 3, 4)
    if pixels.dtype != np.uint8:
        raise UserError(f"a picture's pixels are {pixels.dtype} {shape}; expected uint8, from 0 to 255, in RGB")
    if isinstance(source, Tensor) and pixels.ndim == 3 and shape[0] in channels:
        pixels = pixels.transpose(1, 2, 0)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in channels:
        raise UserError(f"a picture is of shape {shape}; expected [H, W], [H, W, 3] or [H, W, 4]")
    if pixels.shape[2] == 4:
        pixels = on_white(pixels[..., :3], pixels[..., 3:])
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels)
