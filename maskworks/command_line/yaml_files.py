"""Settings in YAML files, and as flags."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from common.errors import UserError
from common.files import read_text
from common.run.configuration import UNPREFIXED

YAML_MEGABYTES, MOST_THINGS, DEEPEST = 0.1, 10**5, 200


def yaml_as_flags(arguments: Sequence[str], evaluating: bool = False) -> tuple[str, list[str], list[str]]:
    """The file of `--config FILE`, its settings as flags, and the other flags."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return "", [], words
    place = words.index("--config")
    if place + 1 == len(words):
        raise UserError("--config needs a YAML file after it")
    path = Path(words[place + 1])
    content = read_settings(path)
    if evaluating and path.name == "config.yaml" and (path.parent / "best.safetensors").exists():
        content |= {"run": str(path.parent), "weights": ""}  # a run's own file says what the run started from
    return str(path), flags(content), words[:place] + words[place + 2 :]


def read_settings(path: Path) -> dict[str, Any]:
    """What a YAML file says, the unprefixed section's settings at the top."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected settings (key: value), found {type(content).__name__}")
    section = content.pop(UNPREFIXED, None)
    return {**section, **content} if isinstance(section, dict) else content


def read_yaml(path: Path) -> Any:
    """A YAML file's content; what stands in for something said before doesn't make it grow without bound."""
    import yaml  # here: who only loads a model has no YAML to read

    class Loader(yaml.SafeLoader):
        def flatten_mapping(self, node: yaml.MappingNode) -> None:
            super().flatten_mapping(node)
            if len(node.value) > MOST_THINGS:  # merges within merges double with each level
                raise ValueError(f"more than {MOST_THINGS:,} things in it")

    try:
        text = read_text(path, YAML_MEGABYTES)
        if deepest(text) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} brackets in one another")  # which the parser takes minutes for
        content = yaml.load(text, Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a YAML file") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    met, left = 0, [content]
    while left:
        value = left.pop()
        met += len(value) if isinstance(value, dict | list) else 0
        if met > MOST_THINGS or (isinstance(value, int) and abs(value) >= 2**64):
            problem = f"more than {MOST_THINGS:,} things" if met > MOST_THINGS else "a number of more than 64 bits"
            raise UserError(f"{path}: {problem} in it; expected a file of settings")
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return content


def deepest(text: str) -> int:
    """How many brackets are open at once."""
    steps = (1 if each in "[{" else -1 for each in text if each in "[]{}")
    return max(accumulate(steps, initial=0))


def flags(settings: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Nested settings as a command line."""
    line: list[str] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            line += flags(value, f"{name}.")
        elif isinstance(value, bool):
            head, _, last = name.rpartition(".")
            line.append(f"--{head}{'.' if head else ''}{'' if value else 'no-'}{last}")
        else:
            line += [f"--{name}", *_words(value)]
    return line


def _words(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in _words(item)]
    return [str(value)]


def to_yaml(config: Any) -> str:
    """What --config reads: a section a key, the unprefixed section's settings at the top."""
    import yaml

    settings = msgspec.to_builtins(config)
    return yaml.safe_dump({**settings.pop(UNPREFIXED), **settings}, sort_keys=False)
