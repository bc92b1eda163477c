"""That GLIP learns to find what a text names, and that it reads the text; minutes each (make test-slow)."""

import numpy as np
import pytest

import glip
from glip.captioned_data import CaptionedDataset, PhraseClasses
from glip.prompts import class_prompt
from glip.scoring import evaluate_classes
from maskworks import shapes
from tests.learning import cpu_minutes, default_run

pytestmark = pytest.mark.slow


def test_the_default_run_finds_seen_and_unseen_phrases_because_it_reads(tmp_path):
    scores, minutes = default_run("glip", tmp_path)
    assert minutes <= cpu_minutes(20)
    assert scores["seen"]["AP"] >= 0.35
    assert scores["unseen"]["AP"] >= 0.20  # colours and shapes that were never seen together
    assert swapped(glip.load(tmp_path / "run" / "best.safetensors")) < 0.05


def swapped(model: glip.GLIP) -> float:
    """Box mAP with each class name in the prompt replaced by another's."""
    made = shapes.ensure("val")
    classes = PhraseClasses(CaptionedDataset([made.images], [made.captions]))
    names = classes.class_names
    others = [names[(place + len(names) // 2) % len(names)] for place in range(len(names))]
    assert not np.any([name == other for name, other in zip(names, others, strict=True)])
    prompt = class_prompt(others, model.tokeniser, model.config.text)
    return float(evaluate_classes(model, classes, 8, 0, prompt).metrics["bbox"]["AP"])
