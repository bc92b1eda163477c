"""One photograph or many, in whatever form it comes: the same results."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from common.data.batches import Prepared
from common.errors import UserError
from common.results import Instances
from common.run.model import Source
from common.run.prediction_batches import as_picture, one_or_many, predict_in_groups


class Brightness(nn.Module):
    """Finds one object, whose score is the photograph's mean; notes how many came at once."""

    class_names, category_ids = ("thing",), (7,)

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.counts: list[int] = []

    @one_or_many
    def predict(self, images: Sequence[Source]) -> list[Instances]:
        def preprocess(image: NDArray[np.uint8]) -> Prepared:
            return Prepared(torch.from_numpy(image).permute(2, 0, 1).float(), image.shape[:2], image.shape[:2])

        def result(answers: torch.Tensor, row: int, prepared: Prepared) -> Instances:
            box = torch.tensor([[1.0, 1.0, 3.0, 4.0]])
            mask = torch.zeros(1, *prepared.original_size, dtype=torch.bool)
            mask[0, 1:4, 1:3] = True
            label = torch.zeros(1, dtype=torch.int64)
            return Instances(answers[row : row + 1], label, box, mask, prepared.original_size, self.class_names)

        self.counts.append(len(images))
        return predict_in_groups(images, preprocess, lambda batch: batch.mean((1, 2, 3)), result, torch.device("cpu"))


PIXELS = np.random.default_rng(0).integers(0, 255, (6, 5, 3), np.uint8)


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "one.png"), PIXELS[..., ::-1])
    return tmp_path / "one.png"


def test_every_form_of_a_photograph_is_the_same(photograph: Path) -> None:
    alpha = np.full((6, 5, 1), 9, np.uint8)
    forms: list[Any] = [
        *(photograph, str(photograph), Image.fromarray(PIXELS), PIXELS, np.concatenate((PIXELS, alpha), 2)),
        *(torch.from_numpy(PIXELS), torch.from_numpy(PIXELS).permute(2, 0, 1)),
    ]
    for form in forms:
        assert np.array_equal(as_picture(form), PIXELS)
        assert Brightness().predict(form).scores.item() == pytest.approx(PIXELS.mean())
    grey = PIXELS[..., 0]
    for form in (grey, grey[..., None], Image.fromarray(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(as_picture(form), np.stack([grey] * 3, axis=2))


def test_pixels_in_memory_are_read_by_the_rules_for_files(tmp_path: Path) -> None:
    layers = np.dstack((PIXELS, np.arange(30, dtype=np.uint8).reshape(6, 5) * 8))
    deep = np.arange(30, dtype=np.uint16).reshape(6, 5) * 130  # 12 bits in a file of 16
    for name, pixels in (("layers", layers), ("deep", deep)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        expected = as_picture(tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert np.array_equal(as_picture(image), expected)
    assert np.array_equal(as_picture(layers), as_picture(tmp_path / "layers.png"))
    assert as_picture(layers)[0, 0].tolist() == [255] * 3  # nothing is there to see
    assert as_picture(tmp_path / "deep.png")[5, 4].tolist() == [round(29 * 130 * 255 / 4095)] * 3


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (PIXELS / 255, r"pixels are float64 \[6, 5, 3\]; expected uint8"),
        (torch.zeros(3, 6, 5), "pixels are float32"),
        (PIXELS[None], r"of shape \[1, 6, 5, 3\]; expected"),
        (np.zeros((6, 5, 2), np.uint8), r"of shape \[6, 5, 2\]"),
        ([3], "a picture is a int; expected a path"),
    ],
)
def test_what_is_no_photograph_is_a_line(form: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Brightness().predict(form)


def test_one_gives_one_a_list_a_list_and_an_iterator_one_at_a_time(photograph: Path) -> None:
    model, asked = Brightness(), []

    def many() -> Iterator[NDArray[np.uint8]]:
        for number in range(1000):
            asked.append(number)
            yield PIXELS

    found = model.predict(many())
    assert next(found).category_ids == (7,)
    assert (asked, model.counts) == ([0], [1])  # not a picture more than is needed is in memory
    assert [len(each) for each in model.predict([PIXELS, photograph])] == [1, 1]
    assert model.counts == [1, 2]
    assert [each.image for each in model.predict(photograph.parent)] == [photograph]


def test_the_precision_that_a_model_was_loaded_with_is_used() -> None:
    model = Brightness()
    seen: list[bool] = []
    spy = one_or_many(lambda model, images: seen.append(torch.is_autocast_enabled("cpu")) or [])
    spy(model, [PIXELS])
    model.precision = "bf16"
    spy(model, [PIXELS])
    assert seen == [False, True]


# --- what a result can do


@pytest.fixture
def found() -> Instances:
    masks = torch.zeros(3, 6, 5, dtype=torch.bool)
    masks[0, 1:4, 1:3] = masks[1, 0:2, 0:5] = masks[2, 5, 4] = True
    boxes = torch.tensor([[1.0, 1, 3, 4], [0, 0, 5, 2], [4, 5, 5, 6]])
    scores, labels = torch.tensor([0.9, 0.6, 0.2]), torch.tensor([0, 1, 0])
    return Instances(scores, labels, boxes, masks, (6, 5), ("cat", "dog"), image=PIXELS, category_ids=(17, 18))


def test_a_result_says_and_shows_what_is_in_it(found: Instances) -> None:
    assert repr(found) == "<3 objects in 5 x 6: 2 cat, 1 dog>"
    assert repr(found[:0]) == "<0 objects in 5 x 6: nothing>"
    assert found.names == ["cat", "dog", "cat"]
    assert (found._repr_png_() or b"")[:4] == b"\x89PNG"
    found.image = None
    assert found._repr_png_() is None


def test_a_result_is_cut_and_filtered(found: Instances) -> None:
    assert found[1].names == ["dog"]
    assert found[-1].scores.tolist() == found.scores[2:].tolist()
    assert [each.names for each in found] == [["cat"], ["dog"], ["cat"]]
    assert len(found[1:]) == 2
    assert found.filter(threshold=0.5).names == ["cat", "dog"]
    assert found.filter(classes=["cat"], threshold=0.5).scores.tolist() == found.scores[:1].tolist()
    with pytest.raises(UserError, match="no class is called 'cow'; there are cat, dog"):
        found.filter(classes=["cow"])
    with pytest.raises(IndexError):
        found[3]


def test_a_result_in_other_forms(found: Instances) -> None:
    arrays = found.numpy()
    assert {name: each.shape for name, each in arrays.items()} == {
        **{"scores": (3,), "labels": (3,)},
        **{"boxes": (3, 4), "masks": (3, 6, 5)},
    }
    assert [entry["category_id"] for entry in found.to_coco()] == [17, 18, 17]
    assert [entry["segmentation"] for entry in found.to_coco()] == found.rle()
    (outline,) = found.polygons()[0]
    assert cv2.fillPoly(np.zeros((6, 5), np.uint8), [outline], 1).tolist() == arrays["masks"][0].astype(int).tolist()
    crop = np.asarray(found.crop(0))
    assert crop.shape == (3, 2, 4)
    assert np.array_equal(crop[..., :3], PIXELS[1:4, 1:3])
    assert (crop[..., 3] == 255).all()
