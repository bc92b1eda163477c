"""Export Pose2Seg to ONNX, masks included: python export.py --weights FILE --out model.onnx.

The graph takes a photograph that is already letterboxed, uint8 [S, S, 3] RGB, and the joints [people, 17, 3] of a
fixed number of people in its pixels (a joint that isn't there has visibility 0, and so have all joints of a person
who isn't). It gives each person's mask [people, S, S].
"""

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import pose2seg
from common.errors import UserError
from maskworks import command_line, exported, exporting
from maskworks.command_line import program
from maskworks.onnx_export import Found, check, outside_both
from maskworks.shapes.scenes import Scene, draw_scene
from pose2seg.geometry import letterbox_matrix, letterboxed, moved_joints
from pose2seg.network import Pose2Seg
from pose2seg.postprocess import THRESHOLD, inverse_warp


@dataclass
class Export(exporting.Export):
    """Write the network, from pixels and joints to masks, as one file, and check it against PyTorch."""

    people: int = 8
    """How many people the graph takes."""


class Graph(nn.Module):
    """Pose2Seg with what `predict` does around it, in operations of fixed output shapes."""

    def __init__(self, model: Pose2Seg):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, joints: Tensor) -> tuple[Tensor]:
        """image [S, S, 3] uint8, joints [people, 17, 3] float -> masks [people, S, S] bool."""
        windows = self.model.windows(joints)
        logits = self.model(self.model.normalised(image.permute(2, 0, 1)[None]), [windows])
        shares = inverse_warp(logits.softmax(dim=1)[:, 1], windows.matrices, (image.shape[0], image.shape[1]))
        there = (joints[..., 2] > 0).any(dim=1)
        return ((shares > THRESHOLD) & there[:, None, None],)


def main() -> None:
    options = command_line.read(Export, "export.py")
    if options.people < 1:
        raise UserError(f"--people {options.people}: expected at least 1")
    model = pose2seg.load(options.weights, device="cpu")
    graph = Graph(model).eval()
    inputs = example(model, options.people)
    side = model.config.model.input_size
    words = exported.words("pose2seg", model.config, model.class_names, model.category_ids, (side, side))
    session = exporting.write(graph, inputs, options, ("masks",), words)
    check(graph, session, inputs, people_in, outside_both, "a built-in scene", options.precision)
    exporting.finish(session, options)


def example(model: Pose2Seg, count: int) -> dict[str, Tensor]:
    """The graph's inputs for a built-in scene with several people; those who aren't there have no joints."""
    side = model.config.model.input_size
    scenes = (draw_scene(0, "val", number) for number in itertools.count())
    scene, people = next((scene, people) for scene in scenes if len(people := joints_in(scene)) > 1)
    joints = torch.zeros(count, *people.shape[1:])
    letterbox = letterbox_matrix(scene.image.shape[0], scene.image.shape[1], side)
    joints[: len(people)] = moved_joints(people[:count], letterbox)
    return {"image": torch.from_numpy(letterboxed(scene.image, side)), "joints": joints}


def people_in(masks: NDArray[np.bool_]) -> Found:
    """Who has a mask, each told from the others as a class of its own."""
    people = np.flatnonzero(masks.any(axis=(1, 2)))
    return Found(np.ones(len(people)), people, masks[people])


def joints_in(scene: Scene) -> Tensor:
    """[people, 17, 3]"""
    found = [torch.from_numpy(thing.keypoints).float() for thing in scene.things if thing.keypoints is not None]
    return torch.stack(found) if found else torch.zeros(0, 17, 3)


if __name__ == "__main__":
    program.run(main)
