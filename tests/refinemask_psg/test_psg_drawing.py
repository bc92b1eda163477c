"""A drawn scene graph: names that don't cover each other, and a legend."""

import numpy as np
import torch

from common.drawing import Tag, free_place, shared_pixels
from common.results import Panoptic, Segment
from refinemask_psg.psg.drawing import PAPER, paint_arrow, with_legend
from refinemask_psg.psg.results import Relation, SceneGraph, numbered_names


def test_a_predicate_moves_along_its_arrow_out_of_the_way_of_names():
    picture = np.zeros((200, 400, 3), np.uint8)
    (x, y), *elsewhere = paint_arrow(picture, (50, 100), (350, 100), (255, 0, 0))
    assert elsewhere
    name = (x - 30, y - 30, x + 30, y + 30)  # of a segment, in the middle of the arrow and above and below it
    place = free_place(Tag("riding", (x, y, x, y), PAPER, True, tuple(elsewhere)), (50, 14), (400, 200), [name])
    assert shared_pixels(place, name) == 0
    assert place[0] >= 50 and place[2] <= 350 and abs((place[1] + place[3]) / 2 - y) <= 2


def test_where_nothing_is_free_the_least_is_covered():
    taken = [(0, 0, 100, 60)]
    place = free_place(Tag("a", (50, 40, 50, 40), PAPER, True, ((20, 20),)), (40, 20), (100, 70), taken)
    assert shared_pixels(place, taken[0]) == 40 * 10


def test_segments_of_a_class_are_numbered_and_the_legend_has_a_width_of_its_own():
    ids = torch.ones(60, 80, dtype=torch.int32)
    ids[:20], ids[40:] = 2, 3
    infos = [Segment(1, 0, True), Segment(2, 1, False), Segment(3, 0, True)]
    panoptic = Panoptic(ids, infos, ("person", "sky"), (60, 80), np.zeros((60, 80, 3), np.uint8))
    assert numbered_names(panoptic) == ["person 1", "sky", "person 2"]
    none, one = SceneGraph(panoptic, [], ("on",)), SceneGraph(panoptic, [Relation(0, 1, 0, 0.9)], ("on",))
    drawings = [np.asarray(graph.draw()) for graph in (none, one)]
    assert drawings[0].shape == drawings[1].shape
    assert drawings[0].shape[0] == 60
    assert (drawings[0][:, 80:] == 255).all()
    assert (drawings[1][:, 80:] != 255).any()


def test_rows_that_do_not_fit_are_left_out():
    picture = np.zeros((30, 40, 3), np.uint8)
    rows = [[("a very long name that does not fit into the legend", (1, 2, 3))]] * 9
    assert with_legend(picture, rows).shape[0] == 30
