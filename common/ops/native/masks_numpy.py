"""What masks.c does, in numpy: used where the C library was not built, and its equal in every result.

Runs are kept ragged: `counts` holds the run lengths of all masks one after the other, `lengths` how many belong
to each mask. Runs go down the columns, the first one is of zeros, as COCO defines it.
"""

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int64]
Bytes = NDArray[np.uint8]

MAX_CHARACTERS = 7  # of one count in a compressed string: 35 bits, enough for any difference of two counts
UPSAMPLING = 5.0  # polygons are drawn on a grid this much finer than the pixels


def encode(masks: Bytes) -> tuple[bytes, Int]:
    """Masks [N, H, W] of 0 and 1 -> the compressed strings one after the other, and where each one ends [N]."""
    return write_strings(*find_runs(masks))


def first_bad(text: bytes, ends: Int, areas: Int) -> int:
    """Index of the first string that is broken or does not describe a mask of its area; -1 if all are sound."""
    runs = read_strings(text, ends)
    return runs if isinstance(runs, int) else first_misfit(*runs, areas)


def decode(text: bytes, ends: Int, height: int, width: int) -> Bytes:
    """Sound strings -> masks [N, H, W] of 0 and 1."""
    return fill(*_read_sound(text, ends), height, width)


def areas(text: bytes, ends: Int) -> Int:
    """Sound strings -> number of ones of each."""
    counts, lengths = _read_sound(text, ends)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(counts)) - np.repeat(starts, lengths)
    total: Int = np.add.reduceat(np.where(place % 2 == 1, counts, 0), starts) if len(starts) else starts
    return total


def boxes(text: bytes, ends: Int, heights: Int) -> NDArray[np.float64]:
    """Sound strings -> the tightest box x, y, width, height around each; zeros for an empty mask."""
    counts, lengths = _read_sound(text, ends)
    result = np.zeros((len(lengths), 4))
    total, starts = np.cumsum(counts), np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(lengths)), lengths)
    end = total - np.repeat(total[starts] - counts[starts], lengths) if len(counts) else total
    ones = ((np.arange(len(counts)) - starts[owner]) % 2 == 1) & (counts > 0)
    owner, begin, end = owner[ones], (end - counts)[ones], end[ones]
    left, top = np.divmod(begin, heights[owner])
    right, bottom = np.divmod(end - 1, heights[owner])
    crossing = left < right  # a run over several columns touches top and bottom
    top, bottom = np.where(crossing, 0, top), np.where(crossing, heights[owner] - 1, bottom)
    filled, first = np.unique(owner, return_index=True)
    if len(filled):
        low = np.stack((np.minimum.reduceat(left, first), np.minimum.reduceat(top, first)), axis=1)
        high = np.stack((np.maximum.reduceat(right, first), np.maximum.reduceat(bottom, first)), axis=1)
        result[filled] = np.concatenate((low, high - low + 1), axis=1)
    return result


def iou(a: tuple[bytes, Int], b: tuple[bytes, Int], boxes_a: NDArray[np.float64], boxes_b: NDArray[np.float64],
        crowd: NDArray[np.bool_]) -> NDArray[np.float64]:  # fmt: skip
    """Intersection over union of all pairs [A, B]; over the area of a where b is a crowd."""
    areas_a, areas_b = areas(*a), areas(*b)
    runs_a, runs_b = (_split(*_read_sound(*each)) for each in (a, b))
    low = np.maximum(boxes_a[:, None, :2], boxes_b[None, :, :2])
    high = np.minimum((boxes_a[:, :2] + boxes_a[:, 2:])[:, None], (boxes_b[:, :2] + boxes_b[:, 2:])[None])
    result = np.zeros((len(areas_a), len(areas_b)))
    for i, j in np.argwhere((high > low).all(axis=2)):
        shared = intersection(runs_a[i], runs_b[j])
        union = areas_a[i] if crowd[j] else areas_a[i] + areas_b[j] - shared
        result[i, j] = shared / union if shared else 0.0
    return result


def from_polygons(polygons: list[NDArray[np.float64]], height: int, width: int) -> bytes:
    """The union of polygons [K, 2] of one object -> compressed string."""
    positions = unite([draw_polygon(points, height, width) for points in polygons])
    counts, lengths = _counts_between(positions, np.array([len(positions)]), height * width)
    return write_strings(counts, lengths)[0]


def _read_sound(text: bytes, ends: Int) -> tuple[Int, Int]:
    runs = read_strings(text, ends)
    if isinstance(runs, int):
        raise ValueError("strings must be checked before they are read")
    return runs


def _split(counts: Int, lengths: Int) -> list[Int]:
    return np.split(counts, np.cumsum(lengths)[:-1])


def find_runs(masks: Bytes) -> tuple[Int, Int]:
    """Masks [N, H, W] of 0 and 1 -> counts, lengths."""
    number, height, width = masks.shape
    if masks.size == 0:
        return np.zeros(number, np.int64), np.ones(number, np.int64)
    padding = -width % 64
    packed = np.packbits(masks, axis=2, bitorder="little")  # the only full read; the rest is an eighth of it
    if padding:
        packed = np.pad(packed, ((0, 0), (0, 0), (0, (width + padding) // 8 - packed.shape[2])))
    changes = packed.copy()
    changes[:, 1:] ^= packed[:, :-1]
    # A run goes on from the bottom of a column to the top of the next one.
    above_first = np.zeros((number, width), np.uint8)
    above_first[:, 1:] = masks[:, -1, :-1]
    top = np.packbits(masks[:, 0] ^ above_first, axis=1, bitorder="little")
    changes[:, 0, : top.shape[1]] = top

    words = changes.reshape(-1, 8).view(np.uint64)[:, 0]
    where = np.flatnonzero(words)
    bits = np.flatnonzero(np.unpackbits(words[where].view(np.uint8), bitorder="little"))
    flat = where[bits >> 6] * 64 + (bits & 63)
    rows, columns = np.divmod(flat, width + padding)
    mask_of, rows = np.divmod(rows, height)
    positions = np.sort((mask_of * width + columns) * height + rows)
    area = height * width
    owner = positions // area
    return _counts_between(positions - owner * area, np.bincount(owner, minlength=number), area)


def _counts_between(positions: Int, lengths: Int, area: int) -> tuple[Int, Int]:
    """Positions where the value changes, ascending in each mask -> run lengths that sum to area in each mask."""
    ends = np.cumsum(lengths + 1)
    counts = np.empty(len(positions) + len(lengths), np.int64)
    last = np.zeros(len(counts), bool)
    last[ends - 1] = True
    counts[last] = area
    counts[~last] = positions
    counts[1:] -= np.where(last[:-1], 0, counts[:-1])
    return counts, lengths + 1


def write_strings(counts: Int, lengths: Int) -> tuple[bytes, Int]:
    """Run lengths -> COCO's compressed strings one after the other, and where each one ends."""
    ends = np.cumsum(lengths)
    place = np.arange(len(counts)) - np.repeat(ends - lengths, lengths)
    values = counts.copy()
    values[2:] -= np.where(place[2:] > 2, counts[:-2], 0)
    size = np.where(values < 0, ~values, values)
    characters = np.ones(len(values), np.int64)
    for bits in range(4, 35, 5):
        characters += size >= 1 << bits
    stops = np.cumsum(characters)
    group = np.arange(stops[-1] if len(stops) else 0) - np.repeat(stops - characters, characters)
    text = (np.repeat(values, characters) >> (5 * group)) & 31
    text |= (group < np.repeat(characters, characters) - 1) << 5
    return (text + 48).astype(np.uint8).tobytes(), np.concatenate(([0], stops))[ends]


def read_strings(text: bytes, ends: Int) -> tuple[Int, Int] | int:
    """Compressed strings one after the other -> counts, lengths; or the index of the first one that is broken.

    Broken: empty, a character outside of the code, a count cut off at the end or of too many characters.
    Whether the counts are sensible is `first_misfit`'s to say.
    """
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    starts = np.concatenate(([0], ends[:-1])).astype(np.int64)
    closing = (codes & 32) == 0
    stops = np.flatnonzero(closing) + 1
    characters = np.diff(stops, prepend=0)
    bad = ends == starts
    filled = np.flatnonzero(~bad)
    bad[np.searchsorted(ends, np.flatnonzero((codes < 0) | (codes > 63)), "right")] = True
    bad[filled[~closing[ends[filled] - 1]]] = True
    bad[np.searchsorted(ends, stops[characters > MAX_CHARACTERS] - 1, "right")] = True
    if bad.any():
        return int(bad.argmax())
    group = np.arange(len(codes)) - np.repeat(stops - characters, characters)
    values = np.add.reduceat((codes & 31) << (5 * group), stops - characters) if len(stops) else stops
    values = values - np.where(codes[stops - 1] & 16, 1 << (5 * characters), 0)

    last = np.searchsorted(stops, ends, "right")
    lengths = np.diff(last, prepend=0)
    first = np.repeat(last - lengths, lengths)
    place = np.arange(len(values)) - first
    for parity in (0, 1):  # from the fourth on, each value is the difference to the one two before
        chain = (place & 1 == parity) & (place > 0)
        sums = np.cumsum(np.where(chain, values, 0))
        values = np.where(chain, sums - np.where(first > 0, sums[first - 1], 0), values)
    return values, lengths


def first_misfit(counts: Int, lengths: Int, areas: Int) -> int:
    """Index of the first mask with a negative count or a sum other than its area; -1 if all fit."""
    if not len(lengths):
        return -1
    starts = np.cumsum(lengths) - lengths
    wrong = np.minimum.reduceat(counts, starts) < 0
    wrong |= np.maximum.reduceat(counts, starts) > areas
    wrong |= np.add.reduceat(counts, starts) != areas
    return int(wrong.argmax()) if wrong.any() else -1


def fill(counts: Int, lengths: Int, height: int, width: int) -> Bytes:
    """Checked run lengths -> masks [N, H, W] of 0 and 1."""
    number = len(lengths)
    masks = np.zeros((number, height, width), np.uint8)
    if masks.size == 0:
        return masks
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(counts)) - np.repeat(starts, lengths)
    positions = np.cumsum(counts)  # all masks sum to their area, so these are positions in the whole stack
    # Mark each change in its column; running xor down the rows then fills the columns.
    begin, end = positions - counts, positions
    ones = (place % 2 == 1) & (counts > 0)
    begin, end = begin[ones], end[ones]
    spans = (end - 1) // height - begin // height  # further columns each run of ones reaches into
    tops = np.repeat(begin // height, spans) + 1
    tops += np.arange(len(tops)) - np.repeat(np.cumsum(spans) - spans, spans)
    change = np.concatenate((begin, end[end % height != 0], tops * height))
    column, row = np.divmod(change, height)
    mask_of, column = np.divmod(column, width)
    np.bitwise_xor.at(masks.reshape(-1), (mask_of * height + row) * width + column, np.uint8(1))
    for y in range(1, height):
        masks[:, y] ^= masks[:, y - 1]
    return masks


def draw_polygon(points: NDArray[np.float64], height: int, width: int) -> Int:
    """Corners [K, 2] of one polygon -> the positions where the value changes, ascending, without doubles."""
    corners = (UPSAMPLING * points + 0.5).astype(np.int64)
    start, end = corners, np.roll(corners, -1, axis=0)
    span = np.abs(end - start)  # [K, 2]
    wide = span[:, 0] >= span[:, 1]
    along, across = np.where(wide, 0, 1), np.where(wide, 1, 0)
    edge = np.arange(len(corners))
    flip = start[edge, along] > end[edge, along]
    low = np.where(flip[:, None], end, start)
    high = np.where(flip[:, None], start, end)
    steps = span[edge, along]
    slope = (high - low)[edge, across] / np.maximum(steps, 1)

    edge = np.repeat(edge, steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - steps - 1, steps + 1)
    step = np.where(flip[edge], steps[edge] - step, step)
    straight = step + low[edge, along[edge]]
    slanted = (low[edge, across[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    x = np.where(wide[edge], straight, slanted)
    y = np.where(wide[edge], slanted, straight)

    crossing = np.flatnonzero(x[1:] != x[:-1])
    x0, x1, y0, y1 = x[crossing], x[crossing + 1], y[crossing], y[crossing + 1]
    column = (np.where(x1 < x0, x1, x1 - 1) + 0.5) / UPSAMPLING - 0.5
    inside = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    row = np.ceil(np.clip((np.minimum(y0, y1)[inside] + 0.5) / UPSAMPLING - 0.5, 0, height))
    positions, times = np.unique(column[inside].astype(np.int64) * height + row.astype(np.int64), return_counts=True)
    odd: Int = positions[(times % 2 == 1) & (positions < height * width)]
    return odd


def unite(changes: list[Int]) -> Int:
    """Positions of change of several masks -> those of their union."""
    positions = np.concatenate(changes)
    signs = np.concatenate([np.where(np.arange(len(each)) % 2 == 0, 1, -1) for each in changes])
    if not len(positions):
        return positions
    order = np.argsort(positions, kind="stable")
    positions, depth = positions[order], np.cumsum(signs[order])
    final = np.append(positions[1:] != positions[:-1], True)  # several changes at one place: what holds after all
    positions, covered = positions[final], depth[final] > 0
    changed: Int = positions[np.diff(covered, prepend=False)]
    return changed


def intersection(a: Int, b: Int) -> int:
    """Number of pixels that two masks given by their run lengths share."""
    bounds_b = np.concatenate(([0], np.cumsum(b)))
    ones_b = np.concatenate(([0], np.cumsum(np.where(np.arange(len(b)) % 2 == 1, b, 0))))
    bounds_a = np.cumsum(a)
    run = np.clip(np.searchsorted(bounds_b, bounds_a, "right") - 1, 0, len(b) - 1)
    below = ones_b[run] + np.where(run % 2 == 1, bounds_a - bounds_b[run], 0)  # ones of b before each bound of a
    return int(np.diff(below)[::2].sum())


def count_pairs(a: Bytes, b: Bytes) -> tuple[Int, Int]:
    """Two pictures [H, W, 3] of ids (blue, green, red) -> the pairs that occur, id of a << 24 | id of b, ascending,
    and in how many pixels each.
    """
    # Neighbours mostly belong to the same pair: ids are looked at only where a run of one pair begins.
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    changes = flat_a[3:] != flat_a[:-3]
    changes |= flat_b[3:] != flat_b[:-3]
    after = np.flatnonzero(changes) // 3 + 1
    starts = np.append(np.zeros(min(1, a.size), np.int64), after[np.diff(after, prepend=0) > 0])
    ids = []
    for picture in (a, b):
        blue, green, red = picture.reshape(-1, 3)[starts].astype(np.int64).T
        ids.append(red | green << 8 | blue << 16)
    pairs, which = np.unique(ids[0] << 24 | ids[1], return_inverse=True)
    return pairs, np.bincount(which, np.diff(starts, append=a.size // 3), len(pairs)).astype(np.int64)
