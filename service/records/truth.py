"""What people's reviews make of a picture: whether it truly shows a flaw."""

from __future__ import annotations

from collections.abc import Iterable

from service.records.entities import ReviewVerdict
from service.types import Decision


def is_flawed(decided: Decision, regions: int, said: Iterable[tuple[ReviewVerdict, int | None]]) -> bool | None:
    """Whether the picture is flawed by its reviews (verdict, region), oldest first; None when they do not tell.

    The last word counts. `right` confirms what was decided (nothing of an undecidable picture); `escape` is a flaw; `overkill`
    is none, once it was said of the whole verdict or of each of its regions.
    """
    flawed: bool | None = None
    dismissed: set[int] = set()
    for verdict, region in said:
        if verdict == "overkill":
            dismissed |= set(range(regions)) if region is None else {region}
            if len(dismissed) >= regions:
                flawed = False
            continue
        dismissed = set() if region is None else dismissed - {region}
        if verdict == "escape":
            flawed = True
        else:
            flawed = {Decision.OK: False, Decision.UNDECIDABLE: None}.get(decided, True)
    return flawed
