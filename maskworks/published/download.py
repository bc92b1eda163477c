"""Fetching a published file: gone on with where it was cut, checked, and in its place whole or not at all."""

import http.client
import shutil
import sys
from errno import ENOSPC
from http.client import PARTIAL_CONTENT, REQUESTED_RANGE_NOT_SATISFIABLE
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from common.errors import UserError
from common.files import digest_of, write_text
from maskworks.command_line.program import FULL

TIMEOUT = 30  # seconds of silence
AT_ONCE = 1 << 20  # bytes


def fetch(url: str, target: Path, digest: str = "") -> Path:
    """The file at `url`, in `target` from now on; of several processes that ask at once, one fetches it.

    `digest` is how the file's digest begins, as sha256:0ebd1859. Without one, what came first is what is expected
    later. A file that was put there by hand is as good, and is checked too.
    """
    checked = beside(target, ".sha256")
    if target.exists() and checked.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(beside(target, ".lock")):
        if target.exists() and checked.exists():
            return target
        if target.exists():
            refuse_another(target, digest, target, "remove it and ask again")
        else:
            part = download(url, target, digest)
            known = f"sha256:{checked.read_text(encoding='utf-8')}" if checked.exists() else ""
            try:
                refuse_another(part, digest or known, url, f"ask again, {or_by_hand(target)}")
            except UserError:
                part.unlink()
                raise
            part.replace(target)
        found = digest_of(target)
        if not digest and not checked.exists():
            print(f"{url}: no digest is published; from now on its SHA-256 is {found}", file=sys.stderr)
        write_text(checked, found)
    return target


def beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def or_by_hand(target: Path) -> str:
    return f"or fetch the file by hand and put it at {target}"


def refuse_another(path: Path, digest: str, name: str | Path, remedy: str) -> None:
    algorithm, _, begins = digest.partition(":")
    if begins and not (found := digest_of(path, algorithm)).startswith(begins):
        wrong = f"its {algorithm.upper()} begins with {found[: len(begins)]}, expected {begins}"
        raise UserError(f"{name}: not the published file: {wrong}; {remedy}")


def download(url: str, target: Path, digest: str) -> Path:
    """The whole file, under the name that it has meanwhile; what of it has come before is kept if it can be used."""
    part = beside(target, ".part")
    try:
        with part.open("ab") as file:
            receive(url, file, target, resume=bool(digest))  # nothing else tells whether two parts are of one file
        return part
    except (OSError, http.client.HTTPException, UserError) as error:
        full = isinstance(error, OSError) and error.errno in FULL
        unusable = full or isinstance(error, UserError) or getattr(error, "code", 0) == REQUESTED_RANGE_NOT_SATISFIABLE
        if part.exists() and (unusable or not digest or not part.stat().st_size):
            part.unlink()
        if isinstance(error, UserError):
            raise
        if full:
            problem = "the disk is full; free some space, name another folder with MASKWORKS_CACHE"
        elif isinstance(error, HTTPError):
            problem = f"the server answers {error.code} {error.reason}; look for the file on its authors' page"
        elif isinstance(error, OSError) and error.filename is not None:
            raise
        elif part.exists():
            problem = f"cut after {part.stat().st_size:,} bytes ({reason_of(error)}); ask again to go on from there"
        else:
            problem = f"did not come ({reason_of(error)}); see to the network or HTTPS_PROXY and ask again"
        raise UserError(f"{url}: {problem}, {or_by_hand(target)}") from error


def reason_of(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return str(reason).partition("\n")[0] or type(error).__name__


def receive(url: str, file: IO[bytes], target: Path, resume: bool) -> None:
    """Append what the file lacks, and show how far it is."""
    begin = file.tell() if resume else 0
    headers = {"User-Agent": "maskworks"} | ({"Range": f"bytes={begin}-"} if begin else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as answer:
        if answer.headers.get_content_type() == "text/html":
            raise UserError(
                f"{url}: a web page came in the file's place, of a proxy or a log-in; open the address in a browser, "
                + or_by_hand(target)
            )
        file.truncate(begin := begin if answer.status == PARTIAL_CONTENT else 0)
        length = answer.headers["Content-Length"]
        total = begin + int(length) if length else None
        if total and shutil.disk_usage(target.parent).free < total - begin:
            raise OSError(ENOSPC, "no space for it")
        with bar(url, target) as progress:
            task = progress.add_task(target.name, total=total, completed=begin)
            while piece := answer.read(AT_ONCE):
                file.write(piece)
                progress.advance(task, len(piece))
        if total is not None and file.tell() != total:
            raise ConnectionError(f"of {total:,}")


def bar(url: str, target: Path) -> Progress:
    """On a terminal; elsewhere a line says what is fetched."""
    console = Console(stderr=True)
    if not console.is_terminal:
        print(f"downloading {url} to {target}", file=sys.stderr)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
