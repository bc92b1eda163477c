"""What `load` and --weights take: a file, or the name of published weights, which is fetched and converted once.

solov2:r50_3x is in the package's weights.toml (python -m common.run.weights prints all), torchvision:resnet50 a
backbone trained on ImageNet, hf:OWNER/REPO a checkpoint on the Hugging Face Hub.
"""

import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import msgspec
import torch
import torchvision
from filelock import FileLock

from common.errors import UserError
from common.files import user_cache
from common.ops.batch_norm_folding import fold_batch_norms
from common.run.checkpoint import Checkpoint, check_weights, load, save
from common.run.configuration import from_dict
from common.run.model import Learner
from maskworks.published import hub
from maskworks.published.download import beside, fetch
from maskworks.published.formats import read_published
from maskworks.published.whole_files import checkpoint_of, understand

BACKBONE = "torchvision"
BESIDE = Path(__file__).resolve().parents[2]  # where the packages lie, this one among them
C = TypeVar("C")
M = TypeVar("M", bound=Learner)


class Published(msgspec.Struct, forbid_unknown_fields=True):
    """What weights.toml says of a published file."""

    url: str
    source: str  # the page that gives the address and the scores
    licence: str
    trained_on: str
    variant: str = ""  # of config.py; without one the file is taken as it is
    scores: dict[str, float] = {}  # kind of result -> its average precision or panoptic quality, in percent
    scored_on: str = "COCO val2017"
    digest: str = ""  # how it begins, as sha256:0ebd1859
    mebibytes: float = 0.0  # its size, where that is published
    classes: str = ""  # what the converter is to take for --classes, where the file doesn't say
    file: str = ""  # what it is called, where `url` is a page from which only a person can fetch it


def published() -> dict[str, dict[str, Published]]:
    """Package -> name -> file, of the packages that are installed."""
    lists = sorted(BESIDE.glob("*/weights.toml"))
    kind = dict[str, Published]
    return {path.parent.name: msgspec.toml.decode(path.read_bytes(), type=kind) for path in lists}


def local_file(source: str | Path) -> Path:
    """The file that is meant: the one of that path, or the one that a name stands for."""
    kind, _, name = str(source).partition(":")
    if kind == BACKBONE:
        return backbone(name)
    if kind == hub.PREFIX:
        return hub.fetch(str(source))
    entry = entry_of(str(source))
    return Path(source) if entry is None else fetched(kind, name, entry)


def entry_of(source: str) -> Published | None:
    """What is published under a name; None if it is that of a file."""
    kind, _, name = source.partition(":")
    names = published().get(kind) if name else None
    if names and name not in names:
        near = get_close_matches(name, names, 1, 0.0)[0]
        raise UserError(
            f"{source}: no weights of that name; did you mean {kind}:{near}? All: python -m common.run.weights"
        )
    return names[name] if names else None


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


def place_of(package: str, name: str, entry: Published) -> Path:
    """Where the file itself is kept, also one that was fetched by hand."""
    return user_cache() / "weights" / package / name / (entry.file or entry.url.rpartition("/")[2])


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


def open_model(
    source: str | Path,
    package: str,
    config_type: type[C],
    network: Callable[[C, tuple[str, ...], tuple[int, ...]], M],
    trainable: bool = False,
) -> M:
    """The model in a checkpoint of ours, or behind a name, ready to predict.

    Batch norms become part of the convolutions before them, which is faster and which training can't undo; `trainable`
    keeps them.
    """
    file = local_file(source)
    found = load(file)
    if found.package != package:
        raise UserError(f"{file}: a checkpoint of {found.package}, not of {package}")
    config = from_dict(config_type, found.config, str(file))
    with torch.device("meta"):  # takes no memory, whatever sizes the file claims
        check_weights(network(config, found.class_names, found.category_ids), found.weights, str(file))
    model = network(config, found.class_names, found.category_ids)
    model.load_state_dict(dict(found.weights))
    if not trainable:
        fold_batch_norms(model)
    return model.eval()
