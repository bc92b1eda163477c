"""The HTML that reports are made of: escaped text, tables, pictures, and the page written in one piece."""

import base64
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from common.files import write_atomically

PICTURE_SIDE = 720  # longest side of an embedded picture, in pixels
MEANINGS = {
    "AP": "average precision, mean over IoU 0.50 to 0.95",
    "AP50": "average precision at IoU 0.50",
    "AP75": "average precision at IoU 0.75",
    "APs": "average precision of small objects (under 32 x 32 pixels)",
    "APm": "average precision of medium objects",
    "APl": "average precision of large objects (over 96 x 96 pixels)",
    "AR1": "average recall with 1 detection for each image",
    "AR10": "average recall with 10 detections for each image",
    "AR100": "average recall with 100 detections for each image",
    "pq": "panoptic quality = segmentation quality x recognition quality",
    "sq": "segmentation quality: mean IoU of the matched segments",
    "rq": "recognition quality: F1 of the matching",
    "n": "number of classes",
}


def write_page(path: Path, title: str, body: str, data: Mapping[str, Any]) -> None:
    """Fill report_page.html and write it to path: whole or not at all."""
    parts = {"title": escape(title), "body": body, "data": embed(data)}
    template = Path(__file__).with_name("report_page.html").read_text(encoding="utf-8")
    # One pass: a marker within a part is left as it is.
    page = re.sub(r"\{\{(title|body|data)\}\}", lambda marker: parts[marker[1]], template)
    # A file name that is not valid UTF-8 gets question marks.
    write_atomically(path, lambda temporary: temporary.write_bytes(page.encode("utf-8", errors="replace")))


def escape(text: str) -> str:
    """Text for HTML, within attributes too."""
    return html.escape(text, quote=True)


def embed(data: Mapping[str, Any]) -> str:
    """JSON for a script element: no letter in it can end the element or open a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def section(heading: str, content: str) -> str:
    """A headed part of the page; nothing without content."""
    return f"<section><h2>{escape(heading)}</h2>{content}</section>" if content else ""


def thumbnail(pictures: Sequence[Path]) -> bytes:
    """Pictures side by side as a JPEG of at most PICTURE_SIDE pixels a side."""
    parts = [Image.open(path).convert("RGB") for path in pictures]
    small = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
    for number, part in enumerate(parts):
        small.paste(part, (sum(other.width for other in parts[:number]), 0))
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=84)
    return buffer.getvalue()


def picture(data: bytes, description: str) -> str:
    """A picture that is decoded when scrolled to, and enlarges on a click."""
    source = "data:image/jpeg;base64," + base64.b64encode(data).decode()
    image = f'<img loading="lazy" src="{source}" alt="{escape(description)}">'
    return f'<button type="button" class="picture" title="Enlarge">{image}</button>'


def tile_list(tiles: Sequence[tuple[str, str]]) -> str:
    """The figures at the head of the page: (name, value)."""
    items = "".join(f"<li><b>{escape(value)}</b>{escape(name)}</li>" for name, value in tiles)
    return f'<ul class="tiles">{items}</ul>' if tiles else ""


def score(value: Any) -> str:
    """A score with three digits; a dash where there is nothing to measure (nan, or COCO's -1)."""
    if isinstance(value, int) or not isinstance(value, float):
        return escape(str(value))
    return f"{value:.3f}" if math.isfinite(value) and value > -1 else "\N{EN DASH}"


def number_table(rows: Mapping[str, Mapping[str, Any]], corner: str) -> str:
    """A table of scores, one row for each name."""
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    heads = "".join(
        f'<th scope="col"><abbr title="{escape(MEANINGS.get(key, key))}">{escape(key)}</abbr></th>' for key in keys
    )
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{score(row.get(key, math.nan))}</td>" for key in keys)
        + "</tr>"
        for name, row in rows.items()
    )
    head = f'<thead><tr><th scope="col">{escape(corner)}</th>{heads}</tr></thead>'
    return f'<div class="card scroll"><table>{head}<tbody>{lines}</tbody></table></div>'


def bar_table(values: Mapping[str, float], heading: str) -> str:
    """A sortable table with a bar for each value between 0 and 1, the largest first; nan comes last."""

    def key(value: float) -> float:
        return value if math.isfinite(value) else -1.0

    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td data-value="{key(value):.6f}">{score(value)}</td>'
        f'<td class="bar"><span style="width:{100 * min(1.0, max(0.0, key(value))):.1f}%"></span></td></tr>'
        for name, value in sorted(values.items(), key=lambda item: -key(item[1]))
    )
    head = (
        '<thead><tr><th scope="col"><button type="button">class</button></th>'
        '<th scope="col" data-numeric aria-sort="descending">'
        f'<button type="button">{escape(heading)}</button></th>'
        '<th aria-hidden="true"></th></tr></thead>'
    )
    return f'<div class="card scroll"><table class="classes">{head}<tbody>{lines}</tbody></table></div>'


def confusion_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A square table of counts, row by row; the last row and column stand for what is not there and not found."""
    columns, rows = [*names, "not found"], [*names, "nothing there"]
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in columns)
    lines = ""
    for row, (true, values) in enumerate(zip(rows, counts, strict=True)):
        total = max(1, sum(values))
        cells = "".join(
            f'<td{" class=right" if row == column else ""} style="--share:{100 * count / total:.0f}%" '
            f'title="{escape(true)}, {escape(columns[column])}: {count} of {sum(values)}">{count or ""}</td>'
            for column, count in enumerate(values)
        )
        lines += f'<tr><th scope="row">{escape(true)}</th>{cells}</tr>'
    table = f'<table class="confusion"><thead><tr><th></th>{head}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<div class="card scroll">{table}</div>'


def fact_table(facts: Mapping[str, str]) -> str:
    """Names and what they are."""
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts.items()
    )
    return f'<table class="facts"><tbody>{lines}</tbody></table>'


def choice(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    """A drop-down list of (value, text)."""
    entries = "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
    return f'<label>{escape(label)} <select id="{name}" name="{name}">{entries}</select></label>'
