"""A configuration as a checkpoint keeps it: plain data, without what belongs to one machine or call."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from common.errors import UserError

T = TypeVar("T")
UNPREFIXED = "training"  # the section whose flags and keys have no prefix
# Of one machine or one call: a checkpoint must not bring them to another. The precision stays: scores depend on it.
NOT_KEPT = {"run", "resume", "weights", "device", "workers", "overwrite", "fit_batch_size"}


def to_dict(config: Any) -> dict[str, Any]:
    return _kept(msgspec.to_builtins(config))


def from_dict(kind: type[T], settings: Mapping[str, Any], source: str) -> T:
    try:
        return msgspec.convert(_kept(settings), kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: its configuration does not fit this version: {error}") from error


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings; those of older ones are read without what was of their machine."""
    section = settings.get(UNPREFIXED)
    if not isinstance(section, Mapping):
        return dict(settings)
    return {**settings, UNPREFIXED: {key: value for key, value in section.items() if key not in NOT_KEPT}}


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Where two configurations differ: "optimizer.lr: 0.01 before, 0.005 now"."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        found = [differences(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for lines in found for line in lines]
    return [] if before == now else [f"{name}: {before} before, {now} now"]
