"""Result files -> tables on the pages of docs/."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def markdown(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """A table of `columns`: key in the rows -> heading."""
    lines = [f"| {' | '.join(columns.values())} |", "|" + "---|" * len(columns)]
    for row in rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in columns) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def filled(page: str, part: str, told: str) -> str:
    """The page with `told` between the comments that mark the part; as it is where they are not there."""
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{told}\n{end}{rest.partition(end)[2]}" if rest else page
