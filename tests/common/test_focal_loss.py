"""Sigmoid focal loss against exact numbers, a float64 textbook formulation and finite differences.

The original's own numbers are the outputs named focal/ of tests/parity/cases/solov2/ops.
"""

import ctypes
import logging
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, library
from torch.nn import functional as F

from common.errors import UserError
from common.ops import closed_form, convert_targets, focal_loss_cuda, sigmoid_focal_loss

CASE = Path(__file__).parents[1] / "parity" / "cases" / "solov2" / "ops" / "golden.npz"
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def textbook(logits: Tensor, target: Tensor, gamma: float, alpha: float) -> Tensor:
    """Of each element, in float64; target from 0 to 1."""
    x, t = logits.double(), target.double()
    p = torch.sigmoid(x)
    wrong = p * (1 - t) + (1 - p) * t
    weight = alpha * t + (1 - alpha) * (1 - t) if alpha >= 0 else 1.0
    return weight * wrong**gamma * F.binary_cross_entropy_with_logits(x, t, reduction="none")


def one_hot(indices: Tensor, classes: int) -> Tensor:
    return indices[:, None] == torch.arange(classes, device=indices.device)


def with_gradient(logits: Tensor, targets: Tensor, gamma: float, alpha: float) -> tuple[Tensor, Tensor]:
    """The loss of each element, and the gradient of their sum computed by the summing operator."""
    logits = logits.detach().requires_grad_()
    each = sigmoid_focal_loss(logits, targets, gamma, alpha, "none")
    (gradient,) = torch.autograd.grad(sigmoid_focal_loss(logits, targets, gamma, alpha), logits)
    return each.detach(), gradient


def case(*names: str) -> list[Tensor]:
    with np.load(CASE) as arrays:
        return [torch.from_numpy(np.asarray(arrays[name])) for name in names]


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.4)])
@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_exact_values_up_to_logits_of_ten_thousand(device: str, gamma: float, alpha: float) -> None:
    logits, theirs = (tensor.to(device) for tensor in case("in/focal/logits", "in/focal/targets"))
    each, gradient = with_gradient(logits, convert_targets(theirs, "zero_is_background", 5), gamma, alpha)
    suffix = f"g{gamma}_a{alpha}"
    exact_loss, exact_gradient = case(f"out/focal/exact_loss_{suffix}", f"out/focal/exact_grad_{suffix}")
    torch.testing.assert_close(each.cpu().double(), exact_loss, rtol=5e-6, atol=1e-7)
    torch.testing.assert_close(gradient.cpu().double(), exact_gradient, rtol=5e-6, atol=1e-7)


def test_conventions_of_other_code_bases() -> None:
    assert convert_targets(torch.tensor([0, 1, 3, -1, -7]), "zero_is_background", 3).tolist() == [3, 0, 2, -1, -1]
    assert convert_targets(torch.tensor([0, 2, 3, -1]), "last_is_background", 3).tolist() == [0, 2, 3, 3]
    hot = torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 0]])
    assert convert_targets(hot.float(), "one_hot", 3).tolist() == [1, 3, 0]
    assert convert_targets(hot.bool(), "one_hot", 3).tolist() == [1, 3, 0]
    assert convert_targets(hot[:, None].expand(3, 2, 3), "one_hot", 3).tolist() == [[1, 1], [3, 3], [0, 0]]
    with pytest.raises(ValueError, match="3 columns for 4 classes"):
        convert_targets(hot, "one_hot", 4)
    for other in (hot.float(), hot.bool()):
        with pytest.raises(TypeError, match="integer class indices"):
            convert_targets(other, "zero_is_background", 3)
    with pytest.raises(ValueError, match="expected 'zero_is_background'"):
        convert_targets(hot, cast(Any, "mine"), 3)


@settings(max_examples=60)
@given(
    rows=st.integers(0, 20),
    classes=st.integers(1, 11),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 1.7, 2.0, 5.0]),
    alpha=st.sampled_from([-1.0, 0.0, 0.25, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    device=st.sampled_from(DEVICES),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_equal_the_textbook(
    rows: int, classes: int, gamma: float, alpha: float, dtype: torch.dtype, device: str, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=generator) * 6).to(device, dtype)
    targets = torch.randint(0, classes + 1, (rows,), generator=generator).to(device)
    exact_logits = logits.double().requires_grad_()
    exact = textbook(exact_logits, one_hot(targets, classes), gamma, alpha)
    each, gradient = with_gradient(logits, targets, gamma, alpha)
    torch.testing.assert_close(each.double(), exact.detach(), rtol=1e-5, atol=1e-6)
    (exact_gradient,) = torch.autograd.grad(exact.sum(), exact_logits)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=tolerance, atol=2e-6)
    total = sigmoid_focal_loss(logits, targets, gamma, alpha, "sum")
    torch.testing.assert_close(total.double(), exact.detach().sum(), rtol=1e-5, atol=1e-5)
    mean = sigmoid_focal_loss(logits, targets, gamma, alpha, "mean")
    torch.testing.assert_close(mean.double(), exact.detach().sum() / max(exact.numel(), 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_gradients_equal_finite_differences(reduction: Any) -> None:
    logits = torch.linspace(-4, 4, 20, dtype=torch.float64).reshape(5, 4).requires_grad_()
    targets = torch.tensor([0, 4, 3, -1, 2])
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets, 1.5, 0.3, reduction), (logits,))


@pytest.mark.parametrize("device", DEVICES)
def test_many_chunks_and_every_weight_of_upstream(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many chunks, logits that are not contiguous, a gradient for each element."""
    monkeypatch.setattr(closed_form, "_LARGEST_CHUNK", 5000)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(37, 9000, generator=generator).to(device).T.requires_grad_()
    targets = torch.randint(-1, 38, (9000,), generator=generator).to(device)
    upstream = torch.rand(9000, 37, generator=generator).to(device)
    exact_logits = logits.detach().double().requires_grad_()
    kept = (targets >= 0)[:, None]
    exact = textbook(exact_logits, one_hot(targets, 37), 2.0, 0.25) * kept
    each = sigmoid_focal_loss(logits, targets, reduction="none")
    torch.testing.assert_close(each.double(), exact, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(each, logits, upstream)
    (exact_gradient,) = torch.autograd.grad(exact, exact_logits, upstream.double())
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets).double(), exact.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_extreme_logits_are_finite_and_right(device: str, dtype: torch.dtype) -> None:
    far = 6e4
    logits = torch.tensor([[far], [far], [-far], [-far]], device=device).to(dtype)
    far = logits[0, 0].item()
    targets = torch.tensor([0, 1, 0, 1], device=device)  # positive, negative, positive, negative
    each, gradient = with_gradient(logits, targets, 2.0, 0.25)
    assert each.flatten().tolist() == [0, pytest.approx(0.75 * far), pytest.approx(0.25 * far), 0]
    assert gradient.flatten().tolist() == [0, 0.75, -0.25, 0]


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_an_impossible_logit_costs_nothing_where_it_is_right(gamma: float) -> None:
    each, gradient = with_gradient(torch.full((2, 1), -torch.inf), torch.tensor([1, -1]), gamma, 0.25)
    assert each.tolist() == [[0.0], [0.0]] and gradient.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_an_infinite_logit_has_a_finite_gradient(device: str, dtype: torch.dtype, gamma: float) -> None:
    """As half-precision logits that overflowed are."""
    logits = torch.tensor([[torch.inf], [-torch.inf], [torch.inf], [-torch.inf]], device=device, dtype=dtype)
    targets = torch.tensor([0, 1, 1, 0], device=device)  # positive, negative, negative, positive
    each, gradient = with_gradient(logits, targets, gamma, 0.25)
    largest = torch.finfo(torch.float32).max
    assert each.flatten().tolist() == pytest.approx([0, 0, 0.75 * largest, 0.25 * largest])
    assert gradient.flatten().tolist() == [0, 0, 0.75, -0.25]


def test_a_logit_that_is_no_number_is_not_hidden() -> None:
    assert sigmoid_focal_loss(torch.tensor([[torch.nan, 0.0]]), torch.tensor([2])).isnan()


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_nothing_costs_nothing(shape: tuple[int, int]) -> None:
    logits = torch.zeros(shape, requires_grad=True)
    targets = torch.zeros(shape[0], dtype=torch.long)
    for reduction in ("sum", "mean"):
        loss = sigmoid_focal_loss(logits, targets, reduction=cast(Any, reduction))
        torch.autograd.backward(loss)
        assert loss.item() == 0
    assert logits.grad is not None and logits.grad.shape == shape
    assert sigmoid_focal_loss(logits, targets, reduction="none").shape == shape


def test_leading_dimensions_are_rows() -> None:
    logits, targets = torch.randn(2, 3, 4), torch.randint(0, 5, (2, 3))
    each = sigmoid_focal_loss(logits, targets, reduction="none")
    rows = sigmoid_focal_loss(logits.reshape(6, 4), targets.reshape(6), reduction="none")
    assert torch.equal(each, rows.reshape(2, 3, 4))
    assert sigmoid_focal_loss(logits[0, 0], targets[0, 0]).item() == pytest.approx(rows[0].sum().item())


@pytest.mark.parametrize(
    ("message", "changed"),
    [
        ("class index 5 for 4 classes", {"targets": torch.tensor([0, 5, 1])}),
        ("class index 5 for 4 classes", {"logits": torch.zeros(1, 4), "targets": torch.tensor([5])}),
        ("one index for each row", {"targets": torch.zeros(3, 4, dtype=torch.long)}),
        ("targets are torch.float32; expected integer", {"targets": torch.zeros(3, 4)}),
        ("targets are torch.bool; expected integer", {"targets": torch.zeros(3, 4, dtype=torch.bool)}),
        ("gamma >= 0", {"gamma": -1}),
        ("alpha <= 1", {"alpha": 1.5}),
        ("expected 'sum', 'mean' or 'none'", {"reduction": "max"}),
        ("floating type", {"logits": torch.zeros(3, 4, dtype=torch.long)}),
    ],
)
def test_misuse_is_refused_in_one_line(message: str, changed: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"logits": torch.zeros(3, 4), "targets": torch.tensor([0, 1, 4])} | changed
    with pytest.raises((ValueError, TypeError), match=message) as refusal:
        sigmoid_focal_loss(**arguments)
    assert "\n" not in str(refusal.value)


def test_differentiating_twice_is_refused() -> None:
    logits = torch.zeros(3, 4, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 1, 4]))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.backward(gradient.sum())


def test_nothing_is_kept_for_backward_but_the_inputs() -> None:
    logits, targets = torch.randn(50, 8, requires_grad=True), torch.randint(0, 9, (50,))
    kept: set[int] = set()

    def look(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        sigmoid_focal_loss(logits, targets)
    assert kept == {logits.untyped_storage().data_ptr(), targets.untyped_storage().data_ptr()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("summed", [True, False])
def test_the_operator_is_registered_as_pytorch_expects(device: str, summed: bool) -> None:
    logits = torch.randn(6, 5, device=device, requires_grad=True)
    targets = torch.tensor([0, 5, 4, -1, 2, 2], device=device)
    library.opcheck(torch.ops.maskworks.sigmoid_focal_loss, (logits, targets, 1.5, 0.25, summed))


def test_compiled_and_exported_programs_hold_one_operator() -> None:
    class Loss(torch.nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return sigmoid_focal_loss(logits * 2, targets) / 3

    logits, targets = torch.randn(7, 5, requires_grad=True), torch.randint(0, 6, (7,))
    expected = Loss()(logits, targets)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    compiled = torch.compile(Loss(), backend="aot_eager", fullgraph=True)(logits, targets)
    (gradient,) = torch.autograd.grad(compiled, logits)
    torch.testing.assert_close(compiled, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    program = torch.export.export(Loss(), (logits, targets))
    assert torch.ops.maskworks.sigmoid_focal_loss.default in [node.target for node in program.graph.nodes]
    torch.testing.assert_close(program.module()(logits, targets), expected)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_kernel_builds_or_says_why_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "built" / "focal_loss.so"
    with pytest.raises(UserError, match=r"nvcc could not build focal_loss\.cu: .*sm_1"):
        focal_loss_cuda.build(path, "-arch=sm_1")
    assert list(path.parent.iterdir()) == []
    focal_loss_cuda.build(path, "-gencode=arch=compute_90,code=[sm_90,compute_90]")
    library = ctypes.CDLL(str(path))
    assert library.focal_loss and library.focal_loss_usable
    assert [file.name for file in path.parent.iterdir()] == ["focal_loss.so"]


def test_without_the_kernel_one_line_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    focal_loss_cuda._library.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert focal_loss_cuda._library(0) is None
        assert focal_loss_cuda._library(0) is None
    focal_loss_cuda._library.cache_clear()
    assert [record.getMessage() for record in caplog.records] == [
        "The focal loss runs without its CUDA kernel, several times slower: this PyTorch was not built for CUDA"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_is_used_and_equals_the_fallback_on_the_gpu() -> None:
    logits = torch.randn(1001, 81, device="cuda")
    targets = torch.randint(-1, 82, (1001,), device="cuda")
    assert focal_loss_cuda.usable(logits)
    for summed in (True, False):
        kernel = focal_loss_cuda.loss(logits, targets, 2.0, (0.75, 0.25), summed)
        fallback = closed_form.loss(logits, targets, 2.0, (0.75, 0.25), summed)
        torch.testing.assert_close(kernel, fallback, rtol=2e-6, atol=1e-7)
    assert torch.equal(kernel, focal_loss_cuda.loss(logits, targets, 2.0, (0.75, 0.25), False))
    upstream = torch.tensor(3.0, device="cuda")
    gradients = [way.gradient(upstream, logits, targets, 2.0, (0.75, 0.25)) for way in (focal_loss_cuda, closed_form)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=5e-6, atol=1e-7)
