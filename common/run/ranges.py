"""Which values a setting may have: declared once with its type, shown by the help, checked wherever a value comes from.

Command lines and --config are checked by maskworks/command_line/allowed.py, checkpoints by msgspec.
"""

from typing import Annotated

from msgspec import Meta

MOST, MOST_AT_ONCE, MOST_WORKERS = 10**9, 10**5, 1024  # more would not end, or not fit
Whole = Annotated[int, Meta(ge=0, le=MOST)]
WholeOrUnset = Annotated[int, Meta(ge=-1, le=MOST)]
Count = Annotated[int, Meta(ge=1, le=MOST)]
Batch = Annotated[int, Meta(ge=1, le=MOST_AT_ONCE)]
Workers = Annotated[int, Meta(ge=-1, le=MOST_WORKERS)]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Width = Annotated[int, Meta(ge=1, le=65_536)]  # channels or pixels: no network has more, no memory could
Depth = Annotated[int, Meta(ge=1, le=1000)]
Doublings = Annotated[int, Meta(ge=0, le=16)]
Share = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Factor = Annotated[float, Meta(ge=1)]
