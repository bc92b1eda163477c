"""Pose2Seg's operations without a network: templates, matching, skeleton maps, matrices, both warps.

Which skeletons an output is of, the spec says in words ("skeletons 7 and 13 with doubled coordinates, image 256").
"""

import re

import numpy as np
import torch
from torch import Tensor

from pose2seg.alignment import Alignment, align, similarities, windows_of
from pose2seg.geometry import letterbox_matrix, moved_joints, scaling, similarity_matrices
from pose2seg.postprocess import inverse_warp
from pose2seg.skeleton import JOINTS, skeleton_features
from pose2seg.templates import expand
from tests.parity import rules
from tests.parity.case import SAMPLE, Array, Case, sample
from tests.parity.networks import array
from tests.parity.rules import Rule

TIED = 2e-7  # templates whose scores differ by less are equally good in float32


def compute(case: Case, device: str) -> dict[str, Array]:
    settings = case.spec["settings"]
    joints, templates = case.tensor("skeletons", device), expanded(case, device)
    found = align(joints, templates, settings["feature"], settings["window"])
    computed = {
        "templates_expanded": array(templates),
        "align/score": array(found.template_scores),
        "align/matrix": array(found.template_matrices),
        "align/best_template": array(found.templates),
        "align/best_score": array(found.scores),
        "align/category": array(category(found)),
        "align/best_matrix": array(found.matrices),
    }
    computed |= skeletons(case, joints, found) | pairs(case, joints) | matrices(case)
    return computed | warps(case, device)


def skeletons(case: Case, joints: Tensor, found: Alignment) -> dict[str, Array]:
    settings = case.spec["settings"]
    window, spread, width = settings["window"], float(settings["sigma"]), float(settings["paf_threshold"])
    moved = moved_joints(joints, found.matrices)
    maps = skeleton_features(moved, window, spread, width)
    computed = {
        "aligned_keypoints": array(moved),
        "skeleton/all": array(maps),
        "skeleton/subset": array(maps[numbers(case, "skeleton/subset", "of skeletons ")]),
        "skeleton/sums": array(torch.stack((maps.sum(dim=(2, 3)), maps.abs().sum(dim=(2, 3))))),
    }
    if both := numbers(case, "skeleton/two_people", "both skeletons "):
        seen = moved[both].clone()
        seen[..., 2] = seen[..., 2].clamp(max=1) * 2  # nobody is drawn as hidden
        computed["skeleton/two_people"] = array(on_top(skeleton_features(seen, window, spread, width)))
    if both := numbers(case, "skeleton/stride4", "skeletons "):
        (size,), (stride,), (sigma,), (limb,) = (
            numbers(case, "skeleton/stride4", word) for word in ("image ", "stride ", "sigma ", "threshold ")
        )
        doubled = joints[both] * torch.tensor([2.0, 2.0, 1.0], device=moved.device)
        computed["skeleton/stride4"] = array(on_top(skeleton_features(doubled, size, sigma, limb, stride)))
    return computed


def on_top(maps: Tensor) -> Tensor:
    """Two people's maps drawn into one, the second on top, as the original can."""
    (below, below_limbs), (above, above_limbs) = ((each[:JOINTS], each[JOINTS:]) for each in maps)
    joints = torch.where(above != 0, torch.maximum(below, above.abs()) * above.sign(), below)
    drawn = (above_limbs.unflatten(0, (-1, 2)) != 0).any(dim=1, keepdim=True).expand(-1, 2, -1, -1).flatten(0, 1)
    return torch.cat((joints, torch.where(drawn, above_limbs, below_limbs)))


def pairs(case: Case, joints: Tensor) -> dict[str, Array]:
    listed = numbers(case, "pair/score_soft", "pairs ")
    if not listed:
        return {}
    source, target = torch.tensor(listed).view(-1, 2).unbind(1)
    (area,) = numbers(case, "pair/score_soft", "dst_area ")
    fit, soft = similarities(joints[source], joints[target], area, covered=False)
    _, hard = similarities(joints[source], joints[target], area, covered=True)
    return {"pair/score_soft": array(soft), "pair/matrix_soft": array(fit[:, :2]), "pair/score_hard": array(hard)}


def matrices(case: Case) -> dict[str, Array]:
    side = 4 * case.spec["settings"]["feature"]
    sizes = [(height, width) for width, height in case.inputs["sizes"].tolist()]
    moves = torch.from_numpy(case.inputs["aug"])
    turned = [
        similarity_matrices(size, side, move[:1], move[1:2], move[None, 2:])
        for size, move in zip(sizes, moves, strict=True)
    ]
    return {
        "letterbox": array(torch.stack([letterbox_matrix(*size, side) for size in sizes])),
        "aug_matrix": array(torch.cat(turned)),
    }


def warps(case: Case, device: str) -> dict[str, Array]:
    """Windows cut out of features and probabilities carried back, with the given matrices of the original."""
    best = torch.from_numpy(case.outputs["align/best_matrix"]).to(device)[case.inputs["which"]]
    features = case.tensor("features", device)
    cut = [
        windows_of(features[image], matrix[None], case.spec["settings"]["window"])
        for image, matrix in zip(case.inputs["index"].tolist(), best, strict=True)
    ]
    _, height, width = case.spec["outputs"]["inverse_warp"]["shape"]
    back = inverse_warp(case.tensor("prob", device)[:, 1], best @ scaling(1 / 4).to(best), (height, width))
    return {"affine_align": array(torch.cat(cut)), "inverse_warp": array(back)}


def rule(case: Case, name: str) -> Rule | None:
    tolerances = case.spec["tolerance"]
    general = rules.stated(tolerances["all"], 1e-4)
    if name in ("align/score", "align/best_score") or name.startswith("pair/score"):
        return rules.absolute(rules.stated(tolerances["align/score"], 1e-4))
    if name == "align/best_template":
        return same_template(case)
    if name == "align/category":
        return rules.exact()
    decided = {"align/best_matrix": 0, "aligned_keypoints": 0, "skeleton/all": 0, "skeleton/sums": 1}
    tolerance = rules.stated(tolerances["skeleton"], 1e-3) if name.startswith("skeleton/") else general
    if name in decided:
        return where_decided(case, name, tolerance, axis=decided[name])
    if name == "inverse_warp":
        return rules.relative(rules.stated(tolerances["inverse_warp"], 5e-3))
    known = ("templates_expanded", "align/matrix", "pair/matrix_soft", "letterbox", "aug_matrix", "affine_align")
    return rules.relative(tolerance) if name in known or name.startswith("skeleton/") else None


def tied(case: Case) -> Array:
    """The skeletons that fit two templates equally well, where rounding decides which is used."""
    settings = case.spec["settings"]
    found = align(case.tensor("skeletons", "cpu"), expanded(case, "cpu"), settings["feature"], settings["window"])
    close = (found.template_scores - found.scores[:, None]).abs() < TIED
    return array((close & (found.scores > 0)[:, None]).sum(dim=1) > 1)


def same_template(case: Case) -> Rule:
    def error(computed: Array, expected: Array) -> float:
        return float(np.count_nonzero((computed != expected) & ~tied(case)))

    return Rule("exact, if decided", 0.0, error)


def where_decided(case: Case, name: str, tolerance: float, axis: int) -> Rule:
    """Relative, without the rows of people whose template rounding decides."""
    undecided = np.flatnonzero(tied(case))

    def error(computed: Array, expected: Array) -> float:
        if computed.shape != expected.shape:
            return rules.INFINITE
        kept = np.ones(case.spec["outputs"][name]["shape"], bool)
        np.moveaxis(kept, axis, 0)[undecided] = False
        kept = sample(kept, case.sample_limit) if name + SAMPLE in case.outputs else kept
        return rules.relative_error(computed[kept], expected[kept])

    return Rule("relative", tolerance, error)


def category(found: Alignment) -> Tensor:
    """1 as soon as any template fits, even if it is too small to be used."""
    return torch.where((found.template_scores > 0).any(dim=1), 1, -1)


def expanded(case: Case, device: str) -> Tensor:
    return expand(torch.from_numpy(case.inputs["templates"])).float().to(device)


def numbers(case: Case, name: str, before: str) -> list[int]:
    """The whole numbers that an output's description lists right after the words `before`; none without the output."""
    text = case.spec["outputs"].get(name, {}).get("meaning", "").partition(before)[2]
    listed = re.match(r"[\[(]*\d+([\])]*(,| and) ?[\[(]*\d+)*", text)
    return [int(number) for number in re.findall(r"\d+", listed[0])] if listed else []
