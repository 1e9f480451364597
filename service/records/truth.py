"""What people's reviews make of a picture: whether its verdict was right, and whether it truly shows a flaw."""

from __future__ import annotations

from collections.abc import Iterable

from service.records.entities import ReviewVerdict
from service.types import Decision

Said = Iterable[tuple[ReviewVerdict, int | None]]  # verdict and region of each review, oldest first


def last_verdict(said: Said, regions: int) -> ReviewVerdict | None:
    """What was said last of the picture's verdict; None when nothing was.

    `overkill` counts once it was said of the whole verdict or of each of its `regions`; of some of them it leaves the others flaws.
    """
    told: ReviewVerdict | None = None
    dismissed: set[int] = set()
    for verdict, region in said:
        if verdict == "overkill":
            dismissed |= set(range(regions)) if region is None else {region}
            if region is None or len(dismissed) >= regions:
                told = verdict
        else:
            dismissed = set() if region is None else dismissed - {region}
            told = verdict
    return told


def is_flawed(decided: Decision, regions: int, said: Said) -> bool | None:
    """Whether the picture is flawed by its reviews; None when they do not tell. `right` confirms what was decided, nothing of an
    undecidable picture; `escape` is a flaw; `overkill` is none."""
    verdict = last_verdict(said, regions)
    if verdict is None:
        return None
    if verdict != "right":
        return verdict == "escape"
    return {Decision.OK: False, Decision.UNDECIDABLE: None}.get(decided, True)
