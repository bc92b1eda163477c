"""Material that may not be shipped: tests that need it are skipped where nothing names its folder."""

import os
from pathlib import Path

import pytest


def given_folder(variable: str, name: str) -> Path:
    """The folder `name` under the one that an environment variable names; without it the test is skipped."""
    folder = Path(os.environ.get(variable, "")) / name
    if not os.environ.get(variable) or not folder.is_dir():
        pytest.skip(f"{variable} does not name a folder with {name}")
    return folder
