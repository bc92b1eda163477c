"""Scores as tables on the terminal: over all, and of each class from the best to the worst."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

CLASSES_SHOWN = 30  # of more than these, only the best and the worst
BEST_AND_WORST = 10

Row = Mapping[str, Any]


def print_scores(metrics: Mapping[str, Row]) -> None:
    """A row for each kind of score."""
    rows: dict[str, Row] = {}
    for kind, scores in metrics.items():
        nested = {f"{kind} {name}": row for name, row in scores.items() if isinstance(row, Mapping)}
        rows |= {name: row for name, row in nested.items() if name != f"{kind} per_class"}
        if numbers := {name: value for name, value in scores.items() if not isinstance(value, Mapping)}:
            rows[kind] = numbers
    print_table("", rows)


def print_classes(per_class: Mapping[str, Mapping[str, float]]) -> None:
    """{score: {class: its value}}; scores of the same classes, as of masks and boxes, stand in one table."""
    tables: dict[frozenset[str], dict[str, Mapping[str, float]]] = {}
    for score, values in per_class.items():
        tables.setdefault(frozenset(values), {})[score] = values
    for columns in tables.values():
        decisive = next(iter(columns.values()))
        known = sorted((name for name in decisive if decisive[name] >= 0), key=lambda name: -decisive[name])  # not NaN
        rows: dict[str, Row] = {name: {score: values[name] for score, values in columns.items()} for name in known}
        if len(known) > CLASSES_SHOWN:
            between = {f"({len(known) - 2 * BEST_AND_WORST} between)": dict.fromkeys(columns, "")}
            best, worst = known[:BEST_AND_WORST], known[-BEST_AND_WORST:]
            rows = {name: rows[name] for name in best} | between | {name: rows[name] for name in worst}
        if known:
            print_table("class", rows)
        if len(known) < len(decisive):
            print(f"{len(decisive) - len(known)} of {len(decisive)} classes do not occur in the data")


def print_table(corner: str, rows: Mapping[str, Row]) -> None:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table()
    for title in (corner, *names):
        table.add_column(escape(title), justify="right")
    for title, row in rows.items():
        table.add_row(escape(title), *(_shown(row.get(name, "")) for name in names))
    Console(width=max(100, 9 * len(names) + 20)).print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float) and value >= 0:
        return f"{value:.3f}"
    return "-" if value is None or isinstance(value, float) or value == -1 else str(value)
