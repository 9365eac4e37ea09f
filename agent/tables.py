"""Tables for people: columns that are as wide as they must be."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def columns(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Collection[str] = (),
    hidden: Collection[str] = (),
) -> list[str]:
    """Return the lines of a table. ``right`` and ``hidden`` name columns by their heads."""
    shown = [number for number, name in enumerate(head) if name not in hidden]
    lines = [head, *rows]
    widths = {column: max(len(row[column]) for row in lines) for column in shown}
    return [
        "  ".join(
            row[column].rjust(widths[column])
            if head[column] in right
            else row[column].ljust(widths[column])
            for column in shown
        ).rstrip()
        for row in lines
    ]
