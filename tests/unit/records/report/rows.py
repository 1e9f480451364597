"""Made-up inspections for the report's tests, the same for the same seed."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from service.errors import NoSuchRecord
from service.records.report.data import Flaw, InspectionRow, Review, Scope
from service.records.report.flaws import reviewed
from service.types import Decision, Severity

START = datetime(2026, 3, 9, 6, 0, tzinfo=UTC)
DAY = Scope(START, START + timedelta(days=1))
KINDS = (
    (
        "dark thread",
        Severity.MAJOR,
        "Loose thread from the carding",
        "Clean the carding drum",
        "Dark line across the upper left",
    ),
    ("hole", Severity.CRITICAL, "Needle broke", "Change the needle", "Round hole near the centre, 4 mm wide"),
    ("stain", Severity.MINOR, "Oil from the guide", "Wipe the guide rail", "Bright blotch at the right edge"),
    ("misprint", Severity.MAJOR, "Roller slipped", "Check the roller's pressure", "Dots missing in the lower right"),
    ("crease", Severity.MINOR, "Web tension too low", "Raise the web tension", "Faint line along the bottom"),
)


def row(number: int = 0, decision: Decision = Decision.OK, **changes: Any) -> InspectionRow:
    """One inspection; `number` gives its id and its minute."""
    scored = {"score": {Decision.OK: 0.05, Decision.REVIEW: 0.15}.get(decision, 0.4)}
    if decision is Decision.UNDECIDABLE:
        scored = {"score": None}
    common = {
        "id": f"{number:032x}",
        "created_at": START + timedelta(minutes=number),
        "decision": decision,
        "review_threshold": 0.1,
        "reject_threshold": 0.2,
    }
    return InspectionRow(**{**common, **scored, **changes})  # type: ignore[arg-type]


def flawed(number: int, *flaws: Flaw, review: Review | None = None, **changes: Any) -> InspectionRow:
    """An inspection that is not ok, with these flaws."""
    return row(number, Decision.NOT_OK, flaws=flaws, review=review, **changes)


def a_day(seed: int = 7, count: int = 2400, sha256: str = "") -> list[InspectionRow]:
    """A day of polka-dot fabric, with a bad hour in the afternoon."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        at = START + timedelta(seconds=86_400 * number / count)
        rate = 0.16 if 14 <= at.hour < 16 else 0.03
        picked = chance.random()
        common: dict[str, Any] = {
            "id": f"{chance.getrandbits(128):032x}",
            "created_at": at,
            "product": "polka-dot",
            "lot": f"L-{240 + number // 800}",
            "serial": f"S{number:05d}",
            "station": "line 2",
            "model": "polka-dot",
            "model_version": 1,
            "review_threshold": 0.16,
            "reject_threshold": 0.2,
            "sha256": sha256,
            "picture_stored": bool(sha256),
        }
        if picked < rate:
            common |= _flaw(chance, number)
            rows.append(InspectionRow(decision=Decision.NOT_OK, **common))
        elif picked < rate + 0.01:
            rows.append(InspectionRow(decision=Decision.UNDECIDABLE, score=None, reasons=("too dark",), **common))
        else:
            rows.append(InspectionRow(decision=Decision.OK, score=chance.gauss(0.07, 0.02) + 1e-5 * number, **common))
    return rows


def _flaw(chance: random.Random, number: int) -> dict[str, Any]:
    label, severity, cause, action, words = chance.choices(KINDS, weights=(9, 2, 5, 3, 1))[0]
    score = chance.uniform(0.21, 0.9)
    box = chance.randrange(200), chance.randrange(200), chance.randrange(12, 90), chance.randrange(8, 60)
    review = None
    if chance.random() < 0.2:
        wrong = chance.random() < 0.15
        review = Review("overkill" if wrong else "right", label, "" if wrong else cause)
    flaw = Flaw(box, score / 0.2, label, severity, words, (cause,), action, "memory", (f"{number % 7:032x}",))
    if review is not None:
        flaw = reviewed(flaw, review.label, review.cause, "", f"{chance.getrandbits(128):032x}")
        flaw = replace(flaw, overkill=review.verdict == "overkill")
    return {"score": score, "flaws": (flaw,), "description": words, "review": review}


def no_picture(sha256: str) -> bytes:
    """A folder of pictures that has none."""
    raise NoSuchRecord(sha256)
