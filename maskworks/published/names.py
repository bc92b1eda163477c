"""Names of weights (solov2:r50_3x, hf:OWNER/REPO, a file) for `load` and --weights: looked up, fetched, converted once.

solov2:r50_3x is in the package's weights.toml (python -m common.run.weights prints all), torchvision:resnet50 a
backbone trained on ImageNet, hf:OWNER/REPO a checkpoint on the Hugging Face Hub. A file with @sha256:DIGEST behind it
is taken only if it is that one.
"""

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from common.files import digest_of, user_cache
from common.ops.batch_norm_folding import fold_batch_norms
from common.run.checkpoint import DIGEST, Unset, check_weights, fitting_together, load, require_file
from common.run.configuration import from_dict
from common.run.distributed import choose_device
from common.run.model import Learner
from maskworks.memory import keep_freed_memory
from maskworks.packages import EXPORTED
from maskworks.published import hub

BACKBONE = "torchvision"
ENDING = ".safetensors"
Precision = Literal["fp32", "bf16", "fp16"]
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
    """The file that is meant: the one of that path, or the one that a name stands for; with a digest, no other."""
    plain, asked, digest = str(source).partition(DIGEST)
    file = file_of(plain)
    if asked:
        require_file(file)
        if not re.fullmatch("[0-9a-f]{64}", digest):
            raise UserError(f"{source}: expected FILE{DIGEST} and 64 digits of 0 to 9 and a to f, as sha256sum prints")
        if (found := digest_of(file)) != digest:
            raise UserError(f"{file}: not the file that is meant: its SHA-256 is {found}, expected {digest}")
    return file


def file_of(source: str) -> Path:
    kind, _, name = source.partition(":")
    if kind == hub.PREFIX:
        return hub.fetch(source)
    entry = entry_of(source)
    if kind != BACKBONE and entry is None:
        return Path(source)
    from maskworks.published import fetching  # not above: who loads a file of ours shouldn't wait for its libraries

    return fetching.backbone(name) if entry is None else fetching.fetched(kind, name, entry)


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


def place_of(package: str, name: str, entry: Published) -> Path:
    """Where the file itself is kept, also one that was fetched by hand."""
    return user_cache() / "weights" / package / name / (entry.file or entry.url.rpartition("/")[2])


def package_in(file: Path) -> str:
    """The package that a checkpoint belongs to, from the file's head; empty if it is none of ours."""
    if not file.is_file():  # a pipe would be waited for
        return ""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            return str(metadata.get("package", "")) if "format" in metadata else ""
    except (SafetensorError, OSError, ValueError):
        return ""


def open_model(
    source: str | Path,
    package: str,
    config_type: type[C],
    network: Callable[[C, tuple[str, ...], tuple[int, ...]], M],
    trainable: bool = False,
    device: str = "",
    precision: Precision = "fp32",
) -> M:
    """The model in a checkpoint of ours, or behind a name, ready to predict on a device, as fast as the commands.

    Batch norms become part of the convolutions before them, which is faster and which training can't undo; `trainable`
    keeps them. On a processor this process keeps the memory that tensors free, as the commands' do.
    """
    file = local_file(source)
    if kind := EXPORTED.get(file.suffix):
        raise UserError(f"{file}: {kind} file can only predict: with predict.py, or maskworks.load in Python")
    if file.is_file() and file.suffix != ENDING and not package_in(file):  # anybody's
        from maskworks.published import fetching

        file = fetching.ours(file)
    found = load(file)
    if found.package != package:
        raise UserError(f"{file}: a checkpoint of {found.package}, not of {package}")
    config = from_dict(config_type, found.config, str(file))
    with torch.device("meta"), fitting_together(str(file)):  # takes no memory, whatever sizes the file claims
        outline = network(config, found.class_names, found.category_ids)
    check_weights(outline, found.weights, str(file))
    with Unset():
        model = network(config, found.class_names, found.category_ids)
    model.load_state_dict(dict(found.weights))
    if not trainable:
        fold_batch_norms(model)
    if precision != "fp32":
        model.precision = precision  # type: ignore[attr-defined]  # common.run.prediction_batches looks for it
    if not device:
        return model.eval()
    if (chosen := choose_device(device)).type == "cpu":
        keep_freed_memory()
    return model.eval().to(chosen).to(memory_format=torch.channels_last)
