"""What all tests of the one command share."""

from pathlib import Path

import pytest

from maskworks.own_data import splits


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of own data are remembered within the test's folder."""
    monkeypatch.setattr(splits, "user_cache", lambda: tmp_path / "cache")
