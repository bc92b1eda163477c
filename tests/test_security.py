"""What SECURITY.md promises is shown by tests that are there, and its limits are those of the code."""

import re

from common.data.images import MAX_PIXELS
from common.files import MEGABYTES
from common.run import checkpoint, ranges
from maskworks.command_line.yaml_files import MOST_THINGS, YAML_MEGABYTES
from maskworks.published.formats import DEEPEST, MOST
from tests.test_house import ROOT

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_each_promise_has_its_test() -> None:
    rows = re.findall(r"^\| (.*) \| (`tests/.*`) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    for _, tests in rows:
        for file, name in re.findall(r"`([\w/.]+)::(\w+)`", tests):
            assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8"), (file, name)


def test_its_limits_are_those_of_the_code() -> None:
    for number, unit in (
        (MEGABYTES, "million bytes"),
        (checkpoint.MEGABYTES, "million bytes"),
        (int(YAML_MEGABYTES * 10**6), "bytes"),
        (MOST_THINGS, "things in it"),
        (MAX_PIXELS // 10**6, "million pixels"),
        (MOST // 10**6, "million things"),
        (DEEPEST, "in one another"),
        (ranges.MOST_AT_ONCE, "1,024"),
        (ranges.MOST_WORKERS, "1,000 million"),
    ):
        assert re.search(rf"\b{number:,},? {unit}", PAGE), (number, unit)
