"""Scores of saliency maps against pysodmetrics 1.6.2: what it says of made-up maps, and itself where it is installed.

It asks for older versions of NumPy and OpenCV than these tests run with, so that they can't ask for it.
"""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest

from refinemask_psg.u2net.metrics import measure, summary

SAID = Path(__file__).parent / "pysodmetrics.json"  # name of a case: MAE, S, adaptive, largest and mean F-measure


def made_up():
    """Maps and masks of every kind: noise, near ones, empty, full, constant, one pixel, binary, a corner's."""
    random = np.random.RandomState(7)
    cases = {}
    for number in range(6):
        height, width = random.randint(5, 60, 2)
        rows, columns = np.mgrid[:height, :width]
        distance = (rows - height / 3) ** 2 + (columns - width / 2) ** 2
        truth = distance < random.randint(4, 200)
        noise = random.randint(0, 256, (height, width))
        cases[f"noise {number}"] = noise.astype(np.uint8), truth
        cases[f"near {number}"] = np.clip(truth * 160 + noise // 3 + 5, 0, 255).astype(np.uint8), truth
    noise, nothing = random.randint(3, 200, (21, 34)).astype(np.uint8), np.zeros((21, 34), bool)
    block = nothing.copy()
    block[4:9, 5:20] = True
    corner, pixel = nothing.copy(), nothing.copy()
    corner[:3, :2] = True
    pixel[11, 7] = True
    cases |= {"empty": (noise, nothing), "full": (noise, ~nothing), "corner": (noise, corner), "pixel": (noise, pixel)}
    cases |= {"right": (block * np.uint8(255), block), "wrong": (~block * np.uint8(255), block)}
    for grey in (0, 90, 128, 255):
        cases[f"constant {grey}"] = np.full((21, 34), grey, np.uint8), block
        cases[f"constant {grey}, empty"] = np.full((21, 34), grey, np.uint8), nothing
    return cases


CASES = made_up()


def ours(matte, truth):
    found = summary([measure(matte, truth)])
    return [found[name] for name in ("MAE", "S", "adaptiveF", "maxF", "meanF")]


@pytest.mark.parametrize("name", CASES)
def test_scores_are_what_pysodmetrics_said(name):
    np.testing.assert_allclose(ours(*CASES[name]), json.loads(SAID.read_text())[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_what_pysodmetrics_says(seed):
    theirs = pytest.importorskip("py_sod_metrics")
    random = np.random.RandomState(seed)
    matte = random.randint(0, 256, random.randint(4, 80, 2)).astype(np.uint8) // random.randint(1, 60)
    truth = random.rand(*matte.shape) < random.rand() * (np.arange(matte.shape[1]) < random.randint(2, 80))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error, structure, measures = theirs.MAE(), theirs.Smeasure(alpha=0.5), theirs.Fmeasure(beta=0.3)
        for each in (error, structure, measures):
            each.step(matte, (truth * 255).astype(np.uint8))
    curves = measures.get_results()["fm"]
    said = [error.get_results()["mae"], structure.get_results()["sm"], curves["adp"]]
    np.testing.assert_allclose(ours(matte, truth), [*said, curves["curve"].max(), curves["curve"].mean()], atol=1e-12)


def test_curves_are_averaged_before_their_maximum_is_taken():
    """One map right at any threshold up to 100, the other from 200 on: 0.5 either way, not 1."""
    truth = np.array([[True, False, False, False]])
    low = np.array([[100, 0, 0, 255]], np.uint8)
    scores = [measure(low, truth), measure(255 - low, ~truth)]
    expected = np.mean([each.curve for each in scores], axis=0)
    assert summary(scores)["maxF"] == pytest.approx(expected.max())
    assert summary(scores)["maxF"] < np.mean([each.curve.max() for each in scores])


def test_a_mask_in_the_last_row_and_column_is_scored():
    """pysodmetrics says NaN here: the quarters beyond the centre of mass have no pixels."""
    truth = np.zeros((6, 7), bool)
    truth[-1, -1] = True
    assert measure(truth * np.uint8(255), truth).structure == pytest.approx(1)


def test_the_overlap_is_the_iou_from_the_middle_on():
    matte, truth = np.array([[255, 200, 100, 0]], np.uint8), np.array([[True, False, True, False]])
    assert measure(matte, truth).overlap == pytest.approx(1 / 3)
