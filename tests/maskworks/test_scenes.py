"""Scenes of the built-in dataset: the same on every machine, and what is drawn is what is said to be drawn."""

import hashlib
from fractions import Fraction

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from maskworks.shapes.figures import COLOURS, HELD_OUT, SHAPES, Split, person, shape
from maskworks.shapes.scene_files import polygons
from maskworks.shapes.scenes import _fill, draw_scene


def test_seeds_and_splits_draw_different_scenes() -> None:
    variants: list[tuple[int, Split]] = [(0, "train"), (0, "val"), (1, "train"), (1, "val")]
    images = {draw_scene(seed, split, k).image.tobytes() for seed, split in variants for k in range(3)}
    assert len(images) == 12


def test_scenes_are_the_same_on_every_machine() -> None:
    """If what is drawn was changed on purpose: count shapes.FORMAT up and put the new digest here."""
    digest = hashlib.sha256()
    for index in range(12):
        scene = draw_scene(0, "train", index)
        for array in (scene.image, *(thing.mask for thing in scene.things), *(mask for _, mask in scene.stuff)):
            digest.update(array.tobytes())
    assert digest.hexdigest() == "a701e5606c9a063977ee2afaacc89bb45b32bd87f5ea0473a7e636a561002b8b"


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=3, max_size=7), min_size=1, max_size=2
    )
)
def test_filling_agrees_with_counting_crossings(contours: list[list[tuple[int, int]]]) -> None:
    expected = np.zeros((12, 12), bool)
    for row in range(12):
        for column in range(12):
            x, y, inside = Fraction(2 * column + 1, 2), Fraction(2 * row + 1, 2), False
            for contour in contours:
                for (x1, y1), (x2, y2) in zip(contour, contour[1:] + contour[:1], strict=True):
                    if min(y1, y2) <= y < max(y1, y2):
                        inside ^= x1 + (y - y1) * (x2 - x1) / (y2 - y1) <= x
            expected[row, column] = inside
    np.testing.assert_array_equal(_fill([np.array(contour) for contour in contours], 12, 12), expected)


def test_training_never_shows_a_held_out_pair_and_validation_shows_all() -> None:
    random = np.random.RandomState(0)
    everything = {(colour, name) for colour in COLOURS for name in SHAPES}
    pairs: dict[str, set[tuple[str, str]]] = {}
    for split in ("train", "val"):
        figures = [shape(random, split, 40) for _ in range(1500)]
        pairs[split] = {(figure.colour, figure.name) for figure in figures}
    assert pairs["train"] == everything - HELD_OUT
    assert pairs["val"] == everything


def test_things_have_the_colour_they_are_said_to_have() -> None:
    names, palette = list(COLOURS), np.array(list(COLOURS.values())) / 255
    things = [(scene.image, t) for k in range(40) for scene in [draw_scene(1, "val", k)] for t in scene.things]
    right = []
    for image, thing in things:
        if thing.name in SHAPES and not thing.crowd and thing.mask.sum() > 300:
            tint = np.median(image[thing.mask], axis=0)
            right.append(
                names[int(np.abs(palette / palette.max(1, keepdims=True) - tint / tint.max()).sum(1).argmin())]
                == thing.colour
            )
    assert len(right) > 40
    assert np.mean(right) > 0.95


def test_a_person_has_its_left_at_the_images_right_exactly_if_its_face_is_seen() -> None:
    random = np.random.RandomState(1)
    seen = set()
    for _ in range(40):
        joints = person(random, 320).joints
        assert joints is not None
        faces_us = bool(joints[0, 2])
        down = joints[11:13, :2].sum(0) - joints[5:7, :2].sum(0)  # from the shoulders to the hips
        across = joints[5, :2] - joints[6, :2]  # from the right shoulder to the left one
        assert (across[0] * down[1] - across[1] * down[0] > 0) == faces_us
        seen.add(faces_us)
    assert seen == {True, False}


def test_later_things_hide_earlier_ones_and_enough_is_seen_of_each() -> None:
    hidden = 0
    for index in range(30):
        scene = draw_scene(2, "train", index)
        assert sum(mask.astype(int) for mask in [t.mask for t in scene.things] + [m for _, m in scene.stuff]).min() == 1
        for number, thing in enumerate(scene.things):
            in_front = [other.whole for other in scene.things[number + 1 :]]
            covered = np.any(in_front, axis=0) if in_front else np.zeros_like(thing.mask)
            np.testing.assert_array_equal(thing.mask, thing.whole & ~covered)
            assert thing.mask.sum() >= max(16, 0.25 * thing.whole.sum())
            hidden += bool((thing.whole & covered).any())
    assert hidden > 5


@settings(max_examples=150)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_polygons_give_any_mask_without_holes_back(height: int, width: int, data: st.DataObject) -> None:
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    outlines = polygons(mask)
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    parts = cv2.connectedComponents(outside, connectivity=8)[0] - 1  # of what isn't the mask
    assert (outlines is None) == (parts > 1)
    if outlines:
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines, height, width)))
        np.testing.assert_array_equal(drawn > 0, mask)
