"""A file from the web arrives whole and checked, or an error says what to do; a server here breaks in each way."""

import errno
import hashlib
import multiprocessing
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import UserError
from maskworks.published import download
from maskworks.published.download import fetch
from tests.web import Server, serving

CONTENT = bytes(range(256)) * 4000
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:8]}"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(dict.fromkeys(("file", "cut", "plain", "page"), CONTENT)) as made:
        yield made


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_a_file_comes_once_and_is_there_without_the_network(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.pth"
    assert fetch(server.url("file"), target, DIGEST).read_bytes() == CONTENT
    assert left(target.parent) == {"file.pth", "file.pth.sha256"}
    assert fetch("http://127.0.0.1:9/file.pth", target, DIGEST) == target
    assert server.asked == [None]


def test_what_was_cut_goes_on_from_there(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file.pth"
    with pytest.raises(
        UserError, match=r"cut after 512,000 bytes .*; ask again to go on from there, or fetch"
    ) as caught:
        fetch(server.url("cut"), target, DIGEST)
    assert str(target) in str(caught.value)
    assert left(tmp_path) == {"file.pth.part"}
    assert fetch(server.url("cut"), target, DIGEST).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=512000-"]


def test_a_server_that_knows_no_ranges_sends_it_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pth.part").write_bytes(b"old" * 10)
    assert fetch(server.url("plain"), tmp_path / "file.pth", DIGEST).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.pth.part").write_bytes(CONTENT + b"more")
    with pytest.raises(UserError, match="the server answers 416"):
        fetch(server.url("file"), tmp_path / "file.pth", DIGEST)
    assert fetch(server.url("file"), tmp_path / "file.pth", DIGEST).read_bytes() == CONTENT


def test_two_parts_of_what_has_no_digest_are_not_put_together(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not come"):
        fetch(server.url("cut"), tmp_path / "file.pth")
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("name", "digest", "message"),
    [
        ("missing", DIGEST, "the server answers 404 Not Found; look for the file on its authors' page, or fetch"),
        ("page", DIGEST, "a web page came in the file's place"),
        ("file", "md5:012345", "not the published file: its MD5 begins with [0-9a-f]{6}, expected 012345; ask again"),
    ],
)
def test_what_isnt_the_file_leaves_nothing(
    name: str, digest: str, message: str, server: Server, tmp_path: Path
) -> None:
    target = tmp_path / "file.pth"
    with pytest.raises(UserError, match=message) as caught:
        fetch(server.url(name), target, digest)
    assert str(caught.value).endswith(f"fetch the file by hand and put it at {target}")
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == set()


def test_without_a_network_it_says_where_to_put_the_file(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(UserError, match=r"did not come \(.*refused\); see to the network or HTTPS_PROXY") as caught:
        fetch(f"http://127.0.0.1:{port}/file.pth", tmp_path / "file.pth", DIGEST)
    assert str(caught.value).endswith(f"put it at {tmp_path / 'file.pth'}")
    assert left(tmp_path) == set()


def test_a_disk_that_is_too_small_is_left_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="the disk is full; free some space, name another folder with MASKWORKS_CACHE"):
        fetch(server.url("file"), tmp_path / "file.pth", DIGEST)
    assert left(tmp_path) == set()


def test_a_disk_that_fills_up_meanwhile_is_left_without_a_part(server: Server, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="the disk is full") as caught:
            fetch(server.url("file"), tmp_path / "file.pth", DIGEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert left(tmp_path) == set()


def test_a_file_put_there_by_hand_is_checked_and_stays(tmp_path: Path) -> None:
    target = tmp_path / "file.pth"
    target.write_bytes(b"another")
    with pytest.raises(UserError, match=re.escape(f"{target}: not the published file")):
        fetch("http://127.0.0.1:9/", target, DIGEST)
    assert target.read_bytes() == b"another"
    target.write_bytes(CONTENT)
    assert fetch("http://127.0.0.1:9/", target, DIGEST) == target


def test_what_came_first_is_what_is_expected_where_no_digest_is_published(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = fetch(server.url("file"), tmp_path / "file.pth")
    assert f"from now on its SHA-256 is {hashlib.sha256(CONTENT).hexdigest()}" in capsys.readouterr().err
    target.unlink()
    server.files["file"] = b"something else"
    with pytest.raises(UserError, match="not the published file"):
        fetch(server.url("file"), target)
    server.files["file"] = CONTENT
    assert fetch(server.url("file"), target).read_bytes() == CONTENT


def test_several_processes_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    started = [
        context.Process(target=fetch, args=(server.url("file"), tmp_path / "file.pth", DIGEST)) for _ in range(3)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert server.asked == [None]
