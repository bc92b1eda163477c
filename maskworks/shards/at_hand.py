"""What a configuration names by URL, made readable here: shards as a folder of the cache, files as copies in it."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from tempfile import NamedTemporaryFile

from common.data.shards import INDEX, ORIGIN
from common.errors import UserError
from common.files import digest_of, user_cache, write_text
from common.run.settings import Data
from maskworks.shards.fetching import gigabytes


def at_hand(data: Data) -> Data:
    """The same with paths on this machine; what has none is fetched, the tars of shards by a process of their own."""
    data = deepcopy(data)
    for named in (data.train, data.val):
        shards = {each: shards_from(each.rstrip("/")) for each in named.images if "://" in each}
        beside = {url.rstrip("/"): Path(folder) for url, folder in shards.items()}  # where panoptic PNGs are sought
        named.images = [shards.get(each, each) for each in named.images]
        named.annotations = [
            str(fetched(each, beside.get(each.rpartition("/")[0]))) if "://" in each else each
            for each in named.annotations
        ]
    return data


def shards_from(url: str) -> str:
    """A folder of the cache with the index, where the tars come one by one, as far as there is room."""
    folder = fetched(f"{url}/{INDEX}").parent
    write_text(folder / ORIGIN, url)
    if os.environ.get("LOCAL_RANK", "0") == "0" and gigabytes():
        subprocess.Popen([sys.executable, "-m", "maskworks.shards.fetching", str(folder)], stdin=subprocess.DEVNULL)
    return str(folder)


def fetched(url: str, folder: Path | None = None) -> Path:
    """A copy of a file in a folder of the cache, else one named after its digest: what has changed is another."""
    cache = user_cache() / "shards"
    cache.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=cache, prefix=".", delete=False) as draft:
        copy = Path(draft.name)
    try:
        copied(url, copy)
        place = (folder or cache / digest_of(copy)[:24]) / url.rpartition("/")[2]
        place.parent.mkdir(exist_ok=True)
        copy.chmod(0o644)
        copy.replace(place)
    finally:
        copy.unlink(missing_ok=True)
    return place


def copied(url: str, copy: Path) -> None:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        system.get_file(path, str(copy))
    except Exception as error:  # each storage has errors of its own
        raise UserError(f"{url}: cannot be read ({error!r:.200}); check the URL and the rights to it") from error
