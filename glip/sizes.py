"""How photographs are scaled: to sizes rounded as one or the other original does it."""

from glip.config import Inference


def input_size(height: int, width: int, settings: Inference) -> tuple[int, int]:
    fit = cut_both_sides if settings.conventions == "mmdetection" else fit_short_side
    return fit(height, width, settings.short_side, settings.long_side)


def fit_short_side(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Microsoft's: the long side is cut to whole pixels, and may come out one above its limit."""
    short, long = min(height, width), max(height, width)
    if long / short * short_side > long_side:
        short_side = round(long_side * short / long)
    if short_side == 0:  # thinner than a pixel: an error in the original
        return (1, long_side) if height < width else (long_side, 1)
    if short == short_side:
        return height, width
    other = int(short_side * long / short)
    return (other, short_side) if height > width else (short_side, other)


def cut_both_sides(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """MMDetection's: both sides are cut, so that the short one may come out one below what was asked for."""
    factor = min(long_side / max(height, width), short_side / min(height, width))
    return max(1, int(height * factor)), max(1, int(width * factor))
