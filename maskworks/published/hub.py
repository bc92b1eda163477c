"""Checkpoints on the Hugging Face Hub: hf:OWNER/REPO or hf:OWNER/REPO/FILE is read; one is written with its card."""

import json
from pathlib import Path
from typing import Any

from common.errors import UserError, needing
from common.run.checkpoint import Checkpoint, load
from maskworks.published.coco_classes import COCO_CLASSES

PREFIX = "hf"
FILE = "model.safetensors"  # where none is named, and what is written
TASKS = {"glip": "zero-shot-object-detection"}  # of the Hub's; image-segmentation where none is said


def fetch(name: str) -> Path:
    """The file behind a name, in the Hub's own cache, which works offline too."""
    library = client(name)
    repository, file = parts(name)
    try:
        return Path(library.HfApi().hf_hub_download(repository, file))
    except Exception as error:  # its own kinds, those of its HTTP client, and of files
        remedy = "see to the name and the network, and if it is private, to `hf auth login`"
        raise UserError(f"{name}: {told(error)}; {remedy}") from error


def push(path: Path, name: str, licence: str) -> str:
    """Write a checkpoint and its card in one commit; where it then is."""
    library = client(name)
    repository, file = parts(name)
    page = card(load(path), name, licence, scores_beside(path))
    try:
        hub, add = library.HfApi(), library.CommitOperationAdd
        hub.create_repo(repository, exist_ok=True)
        operations = [add(file, str(path)), add("README.md", page.encode())]
        done = hub.create_commit(repository, operations, commit_message=f"{file}, written by maskworks")
    except Exception as error:
        raise UserError(f"{name}: not written ({told(error)}); log in with `hf auth login`, see to the name") from error
    return str(done.commit_url)


def client(name: str) -> Any:
    with needing(f"{name}: the Hub", "huggingface_hub"):
        import huggingface_hub
    return huggingface_hub


def parts(name: str) -> tuple[str, str]:
    """hf:OWNER/REPO/FOLDER/FILE -> OWNER/REPO, FOLDER/FILE"""
    owner, *rest = name.removeprefix(f"{PREFIX}:").split("/")
    if not owner or not rest or not all(rest):
        raise UserError(f"{name}: expected {PREFIX}:OWNER/REPO or {PREFIX}:OWNER/REPO/FILE")
    return f"{owner}/{rest[0]}", "/".join(rest[1:]) or FILE


def told(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".:") or type(error).__name__


def scores_beside(path: Path) -> dict[str, Any]:
    """metrics.json, which a training leaves beside its weights."""
    file = path.with_name("metrics.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def card(checkpoint: Checkpoint, name: str, licence: str, scores: dict[str, Any]) -> str:
    """The repository's page: what the checkpoint itself says, its scores, and how it is used."""
    package, variant, names = checkpoint.package, checkpoint.config.get("variant", ""), checkpoint.class_names
    classes = "COCO's 80" if names == COCO_CLASSES else f"{len(names)}: {', '.join(names)}"
    rows = [
        f"| {kind} {score} | {value:.4f} |"
        for kind, values in scores.items()
        for score, value in (values.get("All", values) if isinstance(values, dict) else {}).items()
        if isinstance(value, float)
    ]
    module = "refinemask_psg.u2net" if package == "u2net" else package
    return "\n".join(
        [
            "---",
            "library_name: maskworks",
            f"pipeline_tag: {TASKS.get(package, 'image-segmentation')}",
            f"license: {json.dumps(licence)}",
            f"tags: {json.dumps([package, variant])}",
            "---",
            f"# {package} `{variant}`",
            "",
            f"Classes: {classes}.",
            *(["", "| on its validation set | |", "| --- | --- |", *rows] if rows else []),
            "",
            "```python",
            f"import {module}",
            "",
            f'model = {module}.load("{name}")',
            'result = model.predict(["street.jpg"])[0]',
            "```",
            "",
        ]
    )
