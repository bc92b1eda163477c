"""What a model is to the commands: three verbs on photographs, and an nn.Module underneath."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from common.data.batches import Batch, Prepared
from common.results import Result

Picture = NDArray[np.uint8]  # [H, W, 3] RGB
Source = str | Path | Picture | Image.Image | Tensor  # a photograph: its file, or its pixels, bytes
R_co = TypeVar("R_co", bound=Result, covariant=True)


class Learner(Protocol):
    """What can be trained, saved and loaded."""

    config: Any

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted terms of a training batch by name; their sum is what training makes smaller."""

    # What every nn.Module has; a protocol can't say that it is one.

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def to(self, *args: Any, **kwargs: Any) -> Self: ...

    def train(self) -> Self: ...

    def eval(self) -> Self: ...

    def requires_grad_(self, requires_grad: bool = True) -> Self: ...

    def compile(self) -> None: ...


class Model(Learner, Protocol[R_co]):
    """A package's network, made from its Config, the class names and their ids in annotation files."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def preprocess(self, image: Picture) -> Prepared:
        """The network's input, exactly as the original prepared it, and how to undo it."""

    def predict(self, images: Sequence[Source]) -> Sequence[R_co]:
        """What each photograph shows, in its own pixels; further inputs (joints, a prompt) are named arguments."""
