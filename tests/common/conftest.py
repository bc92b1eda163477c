"""Fixtures of more than one module."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.common.coco_example import HEIGHT, WIDTH


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("a.png", "deep/b.png", "c.png"):
        cv2.imwrite(str(folder / name), pixels)
    return folder
