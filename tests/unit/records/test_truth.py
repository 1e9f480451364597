from __future__ import annotations

from typing import Any

import pytest

from service.records.truth import is_flawed, last_verdict
from service.types import Decision

OK, REVIEW, NOT_OK, UNDECIDABLE = Decision.OK, Decision.REVIEW, Decision.NOT_OK, Decision.UNDECIDABLE
WHOLE = None


@pytest.mark.parametrize(
    ("decided", "regions", "said", "flawed"),
    [
        (NOT_OK, 1, [], None),
        (OK, 0, [("right", WHOLE)], False),
        (OK, 0, [("escape", WHOLE)], True),
        (NOT_OK, 1, [("right", WHOLE)], True),
        (REVIEW, 1, [("right", 0)], True),
        (NOT_OK, 2, [("overkill", WHOLE)], False),
        (NOT_OK, 1, [("overkill", 0)], False),
        (NOT_OK, 2, [("overkill", 0)], None),
        (NOT_OK, 2, [("overkill", 0), ("overkill", 1)], False),
        (NOT_OK, 2, [("overkill", 0), ("right", 1)], True),
        (NOT_OK, 2, [("overkill", 0), ("right", 0), ("overkill", 1)], True),
        (NOT_OK, 1, [("overkill", WHOLE), ("right", WHOLE)], True),
        (NOT_OK, 1, [("right", WHOLE), ("overkill", WHOLE)], False),
        (UNDECIDABLE, 0, [("right", WHOLE)], None),
        (UNDECIDABLE, 0, [("overkill", WHOLE)], False),
    ],
)
def test_the_last_word_on_every_region_counts(decided: Decision, regions: int, said: Any, flawed: bool | None) -> None:
    assert is_flawed(decided, regions, said) is flawed


@pytest.mark.parametrize(
    ("regions", "said", "verdict"),
    [
        (2, [], None),
        (2, [("overkill", 0)], None),
        (2, [("right", 0), ("overkill", 1)], "right"),  # rightly rejected, for the other flaw
        (2, [("overkill", 0), ("overkill", 1)], "overkill"),
        (2, [("right", WHOLE), ("overkill", WHOLE)], "overkill"),
        (0, [("right", WHOLE), ("escape", WHOLE)], "escape"),
    ],
)
def test_a_dismissed_flaw_leaves_the_verdict_to_the_others(regions: int, said: Any, verdict: str | None) -> None:
    assert last_verdict(said, regions) == verdict
