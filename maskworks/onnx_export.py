"""Writing and checking ONNX files; needs the extra `onnx`."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from common.errors import UserError, needing
from common.files import write_atomically
from maskworks.half_precision import halve

# of scores, boxes as parts of the picture, masks' IoU or probabilities, by the file's precision
LARGEST_DIFFERENCE = {"fp32": 1e-2, "fp16": 5e-2, "int8": 1e-2}  # int8: before it becomes that
# of what is found: copies show but some of what half precision decides
MAY_BE_LOST = {"fp32": 0.0, "fp16": 0.05, "int8": 0.0}
ROUNDING = 2.0**-24  # of one operation in single precision
COARSE = 2.0**-9  # four roundings in half precision: of weights, of what they meet, and of later layers
FEWEST_TERMS = 256  # what is added up after a layer's own sum: normalisation, residuals, later layers
COPIES = 3  # models that show what rounding decides
M = TypeVar("M", bound=nn.Module)


def export_onnx(
    graph: nn.Module,
    inputs: dict[str, Tensor],
    out: Path,
    outputs: Sequence[str],
    words: Mapping[str, str],
    dynamic_shapes: dict[str, Any] | None = None,
    precision: str = "fp32",
) -> Any:
    """Export a module for inputs of these sizes, but for what `dynamic_shapes` (as torch.export takes it) leaves open.

    The file says `words` of itself, its precision and its opset. Refuses operations that only PyTorch knows.

    Returns an onnxruntime session of the file.
    """
    with needing("exporting", "onnx onnxruntime onnxscript"):
        import onnx
        from onnxscript.function_libs.torch_lib.ops.core import aten_sort
    exported = torch.export.export(graph, (), inputs, dynamic_shapes=dynamic_shapes, strict=False)

    def stable_sort(values: Any, *, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        return aten_sort(values, dim, descending)  # ONNX gives equal values in their order

    table: dict[Any, Any] = {torch.ops.aten.sort.stable: stable_sort}
    program = torch.onnx.export(
        exported, (), dynamo=True, output_names=list(outputs), verbose=False, custom_translation_table=table
    )
    assert program is not None
    opset = str(program.model.opset_imports[""])
    if precision == "fp16" and not halve(program.model):
        raise UserError(f"{out}: no layer of it can compute in half precision; leave out --precision fp16")
    program.model.metadata_props.update({**words, "precision": precision, "opset": opset})
    write_atomically(out, lambda temporary: program.save(str(temporary)))
    model = onnx.load(out)
    onnx.checker.check_model(model)
    foreign = sorted(
        {f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise UserError(f"{out}: holds operations that only PyTorch knows: {', '.join(foreign)}")
    return session_of(out)


def session_of(file: Path) -> Any:
    """An onnxruntime session with as many threads as PyTorch has."""
    with needing(f"{file}: running it", "onnxruntime"):
        import onnxruntime
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Found:
    """What was found in one picture; of n instances."""

    scores: NDArray[np.floating[Any]]  # [n]
    labels: NDArray[np.integer[Any]]  # [n]
    masks: NDArray[Any]  # [n, ...] bool, or probabilities
    boxes: NDArray[np.floating[Any]] | None = None  # [n, 4], as parts of the picture


def found(scores: NDArray[Any], labels: NDArray[Any], masks: NDArray[Any], boxes: NDArray[Any] | None = None) -> Found:
    """A graph's answer without what only fills it up."""
    some = scores > 0
    return Found(scores[some], labels[some], masks[some], None if boxes is None else boxes[some])


def fixed_count(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Of each [n, ...] the first `count`, or as many zeros as are missing: a graph's answer has a fixed shape."""
    return [torch.cat((each, each.new_zeros(count, *each.shape[1:])))[:count] for each in values]


def shrunk(size: tuple[int, int], within: Sequence[int]) -> tuple[int, int]:
    """Height and width of a photograph made to fit into a graph, where it doesn't."""
    shrink = min(1.0, within[0] / size[0], within[1] / size[1])
    return int(size[0] * shrink), int(size[1] * shrink)


def padded(image: Tensor, size: tuple[int, int], divisor: int) -> dict[str, Tensor]:
    """The inputs of a graph of this size: a photograph [H, W, 3], zeros at its right and below, and its own size."""
    (height, width), (rows, columns) = image.shape[:2], size
    if rows % divisor or columns % divisor:
        raise UserError(f"--size {rows} {columns}: expected multiples of {divisor}")
    if height > rows or width > columns:
        raise UserError(
            f"the photograph is {height} x {width} when scaled; it does not fit into --size {rows} {columns}"
        )
    return {"image": F.pad(image, (0, 0, 0, columns - width, 0, rows - height)), "size": torch.tensor([height, width])}


def check(
    graph: nn.Module,
    session: Any,
    inputs: dict[str, Tensor],
    read: Callable[..., Found],
    masks_apart: Callable[[NDArray[Any], NDArray[Any]], float],
    title: str,
    precision: str = "fp32",
) -> None:
    """Hold what a file answers to these inputs against what its module does in PyTorch; `read` takes the outputs."""

    @torch.inference_mode()
    def find(graph: nn.Module) -> Found:
        return read(*(output.numpy() for output in graph(**inputs)))

    theirs = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    compare(find, graph, read(*theirs), masks_apart, title, precision)


def compare(
    find: Callable[[M], Found],
    model: M,
    theirs: Found,
    masks_apart: Callable[[NDArray[Any], NDArray[Any]], float],
    title: str,
    precision: str = "fp32",
) -> None:
    """Hold a file's instances against PyTorch's: all that is decided by more than rounding must be the same.

    What rounding decides is seen from models whose weights differ by as much (`rounded`): an instance that one of
    them has not, or only they have, is a tie, and counted.
    """
    most = LARGEST_DIFFERENCE[precision]
    ours, others = find(model), [find(rounded(model, number, precision)) for number in range(COPIES)]
    apart = distances(ours, theirs, masks_apart, most)
    ours_to_theirs = partners(apart)
    others_to_ours = [partners(distances(ours, other, masks_apart, most)) for other in others]
    decided = np.all([found >= 0 for found in others_to_ours], axis=0)
    extra = np.setdiff1d(np.arange(len(theirs.scores)), ours_to_theirs)
    known = [partners(distances(theirs, other, masks_apart, most))[extra] >= 0 for other in others]
    unknown = int((~np.any(known, axis=0)).sum())
    ties, lost = int((~decided).sum()), int((decided & (ours_to_theirs < 0)).sum())
    matched = np.flatnonzero(ours_to_theirs >= 0)
    worst = apart[matched, ours_to_theirs[matched]].max(initial=0.0) * most
    print(
        f"{title}: {len(decided)} found, {len(matched)} of them in the file's answer too, scores, boxes and masks "
        f"within {worst:.1e} of {most:g} allowed; {ties + len(extra) - unknown} ties that rounding decides"
    )
    lossy = lost if lost <= MAY_BE_LOST[precision] * decided.sum() else 0
    if lossy:
        share = f"of {int(decided.sum())}; {MAY_BE_LOST[precision]:.0%} may be"
        print(f"note: {lossy} that are no ties are missing from the answer in half precision, {share}")
    if lost > lossy or unknown > ties + lossy:
        raise UserError(
            f"its runtime and PyTorch do not agree ({lost} of {int(decided.sum())} that rounding doesn't decide are "
            f"missing from the file's answer, {unknown} are in nobody else's); the file is not to be trusted"
        )
    if not len(decided):
        print("warning: nothing was found, so nothing shows that the file is right; name a photograph with --image")
    elif not decided.any():
        raise UserError(
            f"all {len(decided)} that were found are decided by rounding alone: nothing shows that the file is right; "
            "export trained weights, or name another photograph with --image"
        )


def rounded(model: M, number: int, precision: str = "fp32") -> M:
    """A copy whose weights differ by as much as sums in another order would.

    Each of n additions rounds a partial sum, which grows as the root of n: together they move the result by about
    n roundings of a term; n terms with a relative error e move it by e times the root of n. So e is that root.
    In half precision the terms are rounded, and still added up in single: e is then COARSE, whatever n.
    """
    copy, random = deepcopy(model), torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in copy.parameters():
            terms = max(parameter.numel() // max(1, len(parameter) if parameter.dim() else 1), FEWEST_TERMS)
            error = COARSE if precision == "fp16" else ROUNDING * terms**0.5
            parameter.mul_(1 + error * torch.randn(parameter.shape, generator=random))
    return copy


def distances(
    ours: Found, theirs: Found, masks_apart: Callable[[NDArray[Any], NDArray[Any]], float], most: float
) -> NDArray[np.float64]:
    """How far each of ours is from each of theirs [n, m], in parts of `most`: up to 1 they are the same."""
    apart: NDArray[np.float64] = np.abs(ours.scores[:, None].astype(float) - theirs.scores)
    if ours.boxes is not None and theirs.boxes is not None:
        apart = np.maximum(apart, np.abs(ours.boxes[:, None] - theirs.boxes).max(axis=2))
    apart = np.where(ours.labels[:, None] == theirs.labels, apart / most, np.inf)
    for one, other in np.argwhere(apart <= 1):
        difference = masks_apart(ours.masks[one], theirs.masks[other]) / most
        apart[one, other] = max(apart[one, other], difference)
    return apart


def partners(apart: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row its nearest column that no row before it took, -1 where none is near enough."""
    free, found = apart.copy(), np.full(len(apart), -1)
    for row in range(len(free) if free.size else 0):
        column = int(free[row].argmin())
        if free[row, column] <= 1:
            found[row], free[:, column] = column, np.inf
    return found


def outside_both(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """What two masks lack of an IoU of 1; nothing where both are empty."""
    either = int((ours | theirs).sum())
    return 1 - int((ours & theirs).sum()) / either if either else 0.0
