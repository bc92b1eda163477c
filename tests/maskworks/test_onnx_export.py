"""What an exported file is held to: all that PyTorch decides by more than rounding, and ties are counted."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from maskworks.onnx_export import Found, compare, export_onnx, fixed_count, outside_both, partners, rounded

MASKS = np.eye(5, dtype=bool)[:, None, :].repeat(4, axis=1)  # [5, 4, 5], each another column


class Scores(nn.Module):
    """A detector whose answer is its weights: the three best of five."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))


def best(model: Scores, count: int = 3) -> Found:
    scores = model.scores.detach().numpy()
    order = np.argsort(-scores, kind="stable")[:count]
    return Found(scores[order], np.zeros(count, int), MASKS[order])


def held(model: Scores, theirs: Found) -> None:
    compare(best, model, theirs, outside_both, "a picture")


def found(*chosen: int, scores: list[float]) -> Found:
    places = list(chosen)
    return Found(np.array(scores), np.zeros(len(places), int), MASKS[places])


def test_an_equal_answer_in_another_order_is_equal(capsys: pytest.CaptureFixture[str]) -> None:
    held(Scores([0.9, 0.8, 0.7, 0.2, 0.1]), found(2, 0, 1, scores=[0.7, 0.9, 0.8]))
    assert "3 found, 3 of them in the file's answer too" in capsys.readouterr().out


def test_where_nothing_is_found_it_is_said_that_nothing_was_shown(capsys: pytest.CaptureFixture[str]) -> None:
    compare(lambda model: best(model, 0), Scores([0.9]), found(scores=[]), outside_both, "a picture")
    assert "nothing shows that the file is right" in capsys.readouterr().out


def test_who_wins_by_less_than_rounding_is_a_tie_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    close = np.float32(0.7), np.nextafter(np.float32(0.7), np.float32(0))
    model = Scores([0.9, 0.8, float(close[0]), float(close[1]), 0.1])
    held(model, found(0, 1, 3, scores=[0.9, 0.8, 0.7]))
    said = capsys.readouterr().out
    assert "3 found, 2 of them in the file's answer too" in said
    assert "; 2 ties" in said  # one that only PyTorch found, one that only the file did


@pytest.mark.parametrize(
    "theirs",
    [
        found(0, 1, 3, scores=[0.9, 0.8, 0.7]),  # another one instead of the third
        found(0, 1, scores=[0.9, 0.8]),  # one too few
        found(0, 1, 2, 3, scores=[0.9, 0.8, 0.7, 0.6]),  # one too many
        found(0, 1, 2, scores=[0.9, 0.8, 0.75]),  # another score
        found(0, 1, 2, 2, scores=[0.9, 0.8, 0.7, 0.7]),  # one twice
    ],
)
def test_what_more_than_rounding_decides_must_be_the_same(theirs: Found) -> None:
    with pytest.raises(UserError, match="not to be trusted"):
        held(Scores([0.9, 0.8, 0.7, 0.2, 0.1]), theirs)


def test_where_rounding_decides_everything_nothing_is_shown() -> None:
    with pytest.raises(UserError, match="nothing shows that the file is right"):
        compare(lambda model: best(model, 1), Scores([0.5] * 5), found(4, scores=[0.5]), outside_both, "a picture")


class Detector(nn.Module):
    """Scores of eight instances, each from a sum of many terms, as a box head's are."""

    def __init__(self, terms: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.features = torch.randn(terms, generator=random)
        self.layer = nn.Linear(terms, 8)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(8, terms, generator=random) / terms**0.5)
            self.layer.bias.copy_(torch.randn(8, generator=random))


def found_by(model: Detector) -> Found:
    scores = model.layer(model.features).sigmoid().detach().numpy()
    return Found(scores, np.zeros(8, int), np.eye(8, dtype=bool)[:, None])


def test_a_file_with_a_changed_weight_or_without_the_last_bias_is_refused() -> None:
    model = Detector(12544)
    compare(found_by, model, found_by(model), outside_both, "a picture")
    changed, without = Detector(12544), Detector(12544)
    with torch.no_grad():
        changed.layer.weight[3, 5] += 2.0
        without.layer.bias.zero_()
    for wrong in (changed, without):
        with pytest.raises(UserError, match="not to be trusted"):
            compare(found_by, model, found_by(wrong), outside_both, "a picture")


@pytest.mark.parametrize("terms", [576, 2304, 12544])
def test_the_copies_differ_by_what_sums_in_another_order_differ(terms: int) -> None:
    model = Detector(terms)
    products = (model.layer.weight * model.features).detach().numpy()
    exact = products.astype(float).sum(axis=1)
    in_order = np.cumsum(products, axis=1, dtype=np.float32)[:, -1]  # one term after the other
    differences = np.sqrt(np.mean((in_order - exact) ** 2))
    copies = [rounded(model, number).layer.weight.detach() * model.features for number in range(20)]
    spread = np.sqrt(np.mean([(copy.double().sum(dim=1).numpy() - exact) ** 2 for copy in copies]))
    assert differences / 2 < spread < 10 * differences


def test_each_row_takes_its_nearest_free_column() -> None:
    apart = np.array([[0.2, 0.1, 3.0], [0.3, 0.1, 3.0], [3.0, 3.0, 3.0]])
    assert partners(apart).tolist() == [1, 0, -1]
    assert partners(np.zeros((2, 0))).tolist() == [-1, -1]


class Confident(nn.Module):
    """What is above a half, the best first and equals in their order: four places, zeros where nothing is."""

    def forward(self, scores: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = (scores > 0.5).nonzero()[:, 0]
        values, order = scores[places].sort(descending=True, stable=True)
        return tuple(fixed_count((values, places[order]), 4))


@pytest.mark.parametrize("chosen", [[0, 3, 5], [], [1, 2, 3, 4, 5, 6]])
def test_a_post_processing_of_any_count_gives_a_file_of_fixed_shapes(chosen: list[int], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    scores = torch.zeros(8)
    example = {"scores": scores.index_fill(0, torch.tensor(1), 0.7)}
    session = export_onnx(Confident(), example, tmp_path / "m.onnx", ("values", "places"), {})
    scores[chosen] = 0.75
    values, places = session.run(None, {"scores": scores.numpy()})
    missing = [0] * (4 - len(chosen))
    assert places.tolist() == (chosen + missing)[:4]
    assert values.tolist() == ([0.75] * len(chosen) + missing)[:4]


class Layers(nn.Module):
    """A layer, and around it a count of pixels that half precision can't hold."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
        nn.init.constant_(self.model[0].weight, 1 + 2**-13)  # a half is 1 then
        nn.init.zeros_(self.model[0].bias)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        answer = self.model(image)
        return answer, (answer > 0).float().flatten(1) @ torch.full((answer[0].numel(), 1), 1.00001)


def test_half_precision_is_that_of_layers_and_not_of_counts_around_them(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    inputs = {"image": torch.ones(1, 1, 300, 300)}
    names = ("answer", "count")
    session = export_onnx(Layers(), inputs, tmp_path / "m.onnx", names, {}, precision="fp16")
    answer, count = session.run(None, {"image": inputs["image"].numpy()})
    assert (answer.dtype, count.dtype) == (np.float32, np.float32)
    assert answer.max() == 1.0
    assert count.item() == pytest.approx(90000.9, abs=0.1)
    said = onnx.load(tmp_path / "m.onnx")
    assert {entry.key: entry.value for entry in said.metadata_props}["precision"] == "fp16"
    weights = {value.name: value.data_type for value in said.graph.initializer if value.name.startswith("model.0")}
    assert set(weights.values()) == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(("score", "precision"), [(0.705, "fp32"), (0.73, "fp16")])
def test_half_precision_is_held_to_a_wider_tolerance(score: float, precision: str) -> None:
    model, theirs = Scores([0.9, 0.8, 0.7, 0.2, 0.1]), found(0, 1, 2, scores=[0.9, 0.8, score])
    compare(best, model, theirs, outside_both, "a picture", precision)
    further = found(0, 1, 2, scores=[0.9, 0.8, score + 0.03])
    with pytest.raises(UserError, match="not to be trusted"):
        compare(best, model, further, outside_both, "a picture", precision)


@pytest.mark.parametrize(("lost", "precision", "taken"), [(2, "fp16", True), (3, "fp16", False), (1, "fp32", False)])
def test_of_many_instances_half_precision_may_lose_one_in_twenty_and_says_so(
    capsys: pytest.CaptureFixture[str], lost: int, precision: str, taken: bool
) -> None:
    masks = np.eye(40, dtype=bool)[:, None]

    def first(model: Scores, count: int = 40) -> Found:
        return Found(model.scores.detach().numpy()[:count], np.zeros(count, int), masks[:count])

    model = Scores([0.9] * 40)
    with nullcontext() if taken else pytest.raises(UserError, match="not to be trusted"):
        compare(first, model, first(model, 40 - lost), outside_both, "a picture", precision)
    assert ("note: 2 that are no ties are missing" in capsys.readouterr().out) == taken
