"""Queries and Accept: what every operation asks of them."""

from __future__ import annotations

import re
from collections import Counter

from fastapi import Request

from service.errors import InvalidParameter

_WEIGHT = re.compile(r"(0(\.\d{0,3})?|1(\.0{0,3})?)")
_LISTS = frozenset({"verdict"})  # several are any of them


async def no_query(request: Request) -> None:  # FastAPI would send a plain function to a thread and wait for it
    """Raises InvalidParameter for any query parameter: none is known here, and silence would hide a mistake."""
    if names := ", ".join(sorted(request.query_params)):
        raise InvalidParameter(f"unknown query parameter {names}; this operation takes none")


async def once_each(request: Request) -> None:
    """Raises InvalidParameter for a query parameter given twice: whichever were taken, the other would be ignored."""
    counts = Counter(name for name, _ in request.query_params.multi_items() if name not in _LISTS)
    if repeated := ", ".join(sorted(name for name, count in counts.items() if count > 1)):
        raise InvalidParameter(f"query parameter {repeated} is given more than once")


def liking(request: Request, media_type: str) -> float:
    """How much the caller likes an answer of that type, 0 (not at all) to 1, as Accept says (RFC 9110, 12.5.1)."""
    weights: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).split(","):
        if not part.strip():
            continue
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        stated = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        weights[kind] = float(stated) if _WEIGHT.fullmatch(stated) else 1.0
    names = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((weights[name] for name in names if name in weights), 0.0 if weights else 1.0)
