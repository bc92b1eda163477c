"""Published files made ready: fetched, checked and converted once, into the cache."""

import hashlib
import sys
from pathlib import Path

import torch
import torchvision
from filelock import FileLock

from common.errors import UserError
from common.files import digest_of, read_bytes, user_cache
from common.run.checkpoint import Checkpoint, require_file, save
from maskworks.command_line.yaml_files import YAML_MEGABYTES
from maskworks.published.download import beside, fetch
from maskworks.published.formats import read_published
from maskworks.published.names import BACKBONE, BESIDE, Published, package_in, place_of
from maskworks.published.recognising import package_of
from maskworks.published.whole_files import checkpoint_of, understand


def fetched(package: str, name: str, entry: Published) -> Path:
    """The file that is published under a name; converted, unless it is taken as it is."""
    original = place_of(package, name, entry)
    ours = original.with_name(f"{name}.safetensors")
    if entry.variant and ours.exists() and newest(package) <= ours.stat().st_mtime:
        return ours
    if entry.file and not original.exists():
        raise UserError(f"{package}:{name}: fetch {entry.file} by hand from {entry.url}, and put it at {original}")
    fetch(entry.url, original, entry.digest)
    if not entry.variant:
        return original
    with FileLock(beside(ours, ".lock")):
        if not ours.exists() or newest(package) > ours.stat().st_mtime:
            save(ours, converted(package, original, entry))
    return ours


def converted(package: str, original: Path, entry: Published) -> Checkpoint:
    """The file as a checkpoint of ours; what decides its results is printed."""
    try:
        file = understand(package, original, *read_published(original), entry.variant, entry.classes)
        told = "\n".join(file.notes).replace(": from --model", f": from {package}/weights.toml")
        print(told, file=sys.stderr)
        return checkpoint_of(file)
    except UserError as error:
        beside(original, ".sha256").unlink()  # no digest to expect from now on
        raise UserError(f"{error}; to fetch it anew remove {original}") from error


def newest(package: str) -> float:
    """When the converter last changed: what an older one made is made anew."""
    return max(path.stat().st_mtime for path in (BESIDE / package).glob("*.py"))


def backbone(name: str) -> Path:
    """torchvision's network, trained on ImageNet: from torch's own cache if it is there."""
    try:
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{BACKBONE}:{name}: torchvision has none of that name; expected one as {BACKBONE}:resnet50"
        ) from error
    file = url.rpartition("/")[2]
    theirs = Path(torch.hub.get_dir()) / "checkpoints" / file
    digest = file.rpartition("-")[2].partition(".")[0]
    return theirs if theirs.exists() else fetch(url, user_cache() / "weights" / BACKBONE / file, f"sha256:{digest}")


def ours(path: Path) -> Path:
    """Somebody's own file as a checkpoint of ours, in the cache; made anew where it or the converter has changed."""
    require_file(path)
    beside_it = path.with_name("config.yaml")  # Detectron2's, which decides too
    words = read_bytes(beside_it, YAML_MEGABYTES) if beside_it.is_file() else b""
    digest = hashlib.sha256(digest_of(path).encode() + words).hexdigest()[:12]
    made = user_cache() / "weights" / "converted" / f"{path.stem}-{digest}.safetensors"
    made.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(beside(made, ".lock")):
        if not (package := package_in(made)) or newest(package) > made.stat().st_mtime:
            state, rest = read_published(path)
            package = package_of(state, path)
            print(f"{path}: a published checkpoint of {package}: converting it to {made}", file=sys.stderr)
            try:
                file = understand(package, path, state, rest, None, "")
            except UserError as error:
                raise UserError(f"{error} (that is: maskworks convert {path} --model NAME)") from error
            print("\n".join(file.notes), file=sys.stderr)
            save(made, checkpoint_of(file))
    return made
