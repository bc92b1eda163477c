"""Encodes and decodes damaged run-length codes with a masks.c built for it: python sanitized.py MASKS.so SEED COUNT.

Started by test_sanitizers.py under AddressSanitizer and UBSan, which end the process at the first wrong access.
"""

import sys

import numpy as np

from common.errors import UserError
from common.ops import masks as rle

SIZES = ((1, 1), (1, 70), (70, 1), (5, 7), (63, 65), (129, 64), (0, 5))


def damaged(random: np.random.Generator, text: str) -> str:
    """One to three characters changed, left out or put in, now and then the end cut off."""
    characters = list(text)
    for _ in range(random.integers(1, 4)):
        at = int(random.integers(0, len(characters) + 1))
        new = [chr(code) for code in random.integers(46, 114, random.integers(0, 3))]
        characters[at : at + int(random.integers(0, 2))] = new
    return "".join(characters[: None if random.random() < 0.9 else int(random.integers(0, len(characters) + 1))])


def main(library: str, seed: str, count: str) -> None:
    plain = rle.CDLL
    rle.CDLL = lambda path: plain(library)  # type: ignore[misc, assignment]
    assert rle.compiled() is not None
    random, read = np.random.default_rng(int(seed)), 0
    for _ in range(int(count)):
        height, width = SIZES[random.integers(len(SIZES))]
        masks = random.random((2, height, width)) < random.choice([0.0, 0.01, 0.5, 1.0])
        sound = rle.encode(masks)
        assert (rle.decode(sound) == masks).all()
        code = {"size": [height, width], "counts": damaged(random, sound[0]["counts"])}
        try:
            again = rle.decode([code])
            read += 1
        except UserError:
            continue
        assert again.sum() == rle.area([code])[0]
    print(f"{count} codes damaged, {read} of them still masks")


if __name__ == "__main__":
    main(*sys.argv[1:])
