"""What is read whole: regular files of bounded size, whose limit a flag raises."""

import os
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import RAISED, read_bytes, read_text
from maskworks.command_line.program import raise_limit, surroundings
from maskworks.command_line.yaml_files import read_yaml


def refusal(path: Path, megabytes: float = 1) -> str:
    with pytest.raises(OSError, match=r".") as caught:
        read_bytes(path, megabytes)
    return str(surroundings(caught.value))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_what_has_no_end_is_refused_in_words(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    assert "a pipe or a device" in refusal(tmp_path / "pipe")
    assert "a pipe or a device" in refusal(tmp_path / "device")
    assert "no name that a file can have" in refusal(tmp_path / "a\0b")


def test_a_flag_anywhere_on_the_line_raises_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAISED, "0")
    path = tmp_path / "large.json"
    path.write_bytes(b" " * 1_000_001)
    assert "1,000,001 bytes; the limit is 1 million, --max-megabytes raises it" in refusal(path)
    for line in ("train.py --max-megabytes 2 --steps 1", "train.py --steps 1 --max-megabytes=2"):
        monkeypatch.setattr(sys, "argv", line.split())
        raise_limit()
        assert sys.argv == ["train.py", "--steps", "1"]
        assert len(read_text(path, 1)) == 1_000_001
        monkeypatch.setenv(RAISED, "0")
    monkeypatch.setattr(sys, "argv", ["train.py", "--max-megabytes", "all"])
    with pytest.raises(UserError, match="--max-megabytes all: expected"):
        raise_limit()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: &a [*a, *a]\n", "things in it"),
        ("".join(f"{n}: &{n} [{f'*{n - 1}, ' * 10 if n else 1}]\n" for n in range(9)), "things in it"),
        ("".join(f"- &{n} {{a: 1, <<: [{f'*{n - 1}, *{n - 1}' if n else ''}]}}\n" for n in range(60)), "things in it"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 2}\n", ""),
        ("[" * 5000, "more than 200 brackets in one another"),
        ("a: [" + "[1], " * 300 + "]", ""),
        ("a: 0x" + "f" * 10_000, "64 bits"),
        ("a: 2001-99-99", "not YAML"),
    ],
)
def test_yaml_that_grows_while_it_is_read_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    if problem:
        with pytest.raises(UserError, match=problem):
            read_yaml(path)
    else:
        assert read_yaml(path)["a"]
