"""What is said of pictures that aren't plain RGB of 8 bits, before they are learnt from or predicted."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from common.data.images import MAX_PIXELS, depth_of
from common.data.picture_headers import DEEP, SEE_THROUGH, open_picture, read_header
from common.data.shards import is_far
from common.errors import UserError

LOOKED_AT, FEW, DECODED = 5000, 50, 20  # pictures by which a data set is described; few, where each has to come here
TREATMENT = {  # what about a picture isn't plain, and what is done about it
    DEEP: "each scaled by the bits, 8, 10, 12, 14 or 16, that its brightest value needs",
    SEE_THROUGH: "laid on white",
    "are grey": "the same in all three colours",
    "have a palette": "its colours are taken",
    "are CMYK": "turned into RGB",
    "are turned by Exif": "as it says",
    "have several pages": "the first is taken",
}


def described(paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> str:
    """What is done with pictures that aren't plain, in a line; of very many, some are looked at. Empty: all are plain.

    Those that can't be read are named where they are.
    """
    paths = paths[:: len(paths) // (FEW if paths and is_far(paths[0]) else LOOKED_AT) + 1]
    kinds: dict[str, list[Path]] = {}
    for path in paths:
        with suppress(UserError), open_picture(path, max_pixels) as file:
            for kind in read_header(file, path).kinds:
                kinds.setdefault(kind, []).append(path)
    depths: Counter[int] = Counter()
    for path in kinds.get(DEEP, [])[:: len(kinds.get(DEEP, [])) // DECODED + 1]:
        with suppress(UserError):
            depths[depth_of(path, max_pixels)] += 1
    found = ", ".join(f"{bits} in {count} looked at" for bits, count in sorted(depths.items()))
    done = TREATMENT | {DEEP: f"{TREATMENT[DEEP]}: {found}"}
    parts = [f"{len(kinds[kind])} of {len(paths)} {kind} ({done[kind]})" for kind in TREATMENT if kind in kinds]
    return f"pictures: {'; '.join(parts)}" if parts else ""
