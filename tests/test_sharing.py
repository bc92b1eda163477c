"""Models within somebody's program: two packages at once, threads, processes that are forked, results that are sent."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from maskworks.packages import NETWORKS
from maskworks.shapes.scenes import draw_scene
from tests.glip.small import small_model
from tests.tiny import CLASSES, photograph, tiny

PICTURES = [draw_scene(0, "val", number).image[:96, : 64 + 8 * number] for number in range(4)]
KINDS = ("solov2", "yolact", "maskrcnn", "refinemask_psg", "upsnet", "glip")


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    made = {name: getattr(import_module(name), NETWORKS[name])(tiny(name), CLASSES).eval() for name in KINDS[:-1]}
    return made | {"glip": small_model()}


@pytest.fixture(scope="module")
def found(models):
    return {name: [told(model.predict(picture)) for picture in PICTURES] for name, model in models.items()}


def told(result) -> dict:
    """All numbers of a result."""
    return (result.instances() if hasattr(result, "instances") else result).numpy()


def assert_same(some, others) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name])
    assert any(len(one["scores"]) for one in some)


@pytest.mark.parametrize("name", KINDS[:-1])
def test_pictures_predicted_together_give_what_each_gives_alone(models, name):
    pictures = [photograph(96, 80, seed) for seed in range(3)]
    if name in ("solov2", "yolact"):  # the others pad a picture to the largest of the call, which their edges see
        pictures.append(photograph(40, 96))
    for picture, together in zip(pictures, map(told, models[name].predict(pictures)), strict=True):
        alone = told(models[name].predict(picture))
        assert len(alone["scores"]) > 0
        np.testing.assert_array_equal(together["labels"], alone["labels"])
        rtol, atol = (1e-5, 1e-5) if name in ("maskrcnn", "refinemask_psg") else (1e-4, 1e-6)
        np.testing.assert_allclose(together["scores"], alone["scores"], rtol, atol)
        if name == "maskrcnn":
            np.testing.assert_allclose(together["boxes"], alone["boxes"], rtol, atol)
        assert (together["masks"] != alone["masks"]).mean() < 1e-3


def test_threads_that_call_several_models_at_once_get_what_one_would(models, found):
    with ThreadPoolExecutor(8) as pool:
        asked = {
            (name, number): [pool.submit(model.predict, PICTURES[number]) for _ in range(2)]
            for number in range(len(PICTURES))
            for name, model in models.items()
        }
        for name in KINDS:
            for turn in range(2):
                assert_same([told(asked[name, n][turn].result(60)) for n in range(len(PICTURES))], found[name])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_after_predicting_on_several_threads_finds_the_same(models, found):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    models["solov2"].predict(PICTURES[1])
    with get_context("fork").Pool(1) as pool:
        for name in KINDS:
            sent = pool.apply_async(predicted, (models[name], PICTURES[0])).get(60)
            assert_same([told(sent)], found[name][:1])
    torch.set_num_threads(before)


def predicted(model, picture):
    return model.predict(picture)


@pytest.mark.parametrize("name", KINDS)
def test_a_pickled_result_is_the_result(models, name):
    result = models[name].predict(PICTURES[3])
    again = pickle.loads(pickle.dumps(result))
    assert repr(again) == repr(result)
    assert_same([told(again)], [told(result)])
    assert again.draw().tobytes() == result.draw().tobytes()
