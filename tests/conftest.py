"""For all tests: nothing is timed, and `--not-passed` leaves out what passed in the run before; what several share."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# a busy machine is no fault of the code
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

os.fsync = lambda _: None  # nothing that a test writes has to outlive the machine

PASSED = "maskworks/passed"  # where pytest's cache has the names of a run's tests that passed
passed: list[str] = []


@pytest.fixture(scope="module")
def folder(weights: Path) -> Path:
    """Where a module's `weights` were trained (tests.small: trained)."""
    return weights.parents[3]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--not-passed", action="store_true", help="leave out the tests that passed in the last run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--not-passed"):
        before = set(config.cache.get(PASSED, []))
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in before])
        items[:] = [item for item in items if item.nodeid not in before]


def pytest_collection_finish(session: pytest.Session) -> None:
    gc.freeze()  # what was imported stays: no later collection looks through it


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries complain at the end of what was never freed


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        passed.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    is_worker = hasattr(session.config, "workerinput")  # of xdist; its reports reach the main process too
    if hasattr(session.config, "cache") and not is_worker:
        session.config.cache.set(PASSED, passed)
