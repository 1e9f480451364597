from __future__ import annotations

from typing import Any

import pytest

from service.records.truth import is_flawed
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
