from __future__ import annotations

from typing import Any

import pytest

from service.errors import InvalidParameter, NoSuchRecord
from service.records.entities import Review
from service.records.store import Records
from service.types import Decision
from tests.unit.records.making import record

OK, REVIEW, NOT_OK, UNDECIDABLE = Decision.OK, Decision.REVIEW, Decision.NOT_OK, Decision.UNDECIDABLE


def shots(records: Records, *decisions: Decision, **each: Any) -> None:
    """One shot of the part for each, in its own view."""
    items = [record(number, word, serial="S", view=str(number), **each) for number, word in enumerate(decisions, 1)]
    records.save(items).result(20)


@pytest.mark.parametrize(
    ("decisions", "verdict"),
    [
        ((OK, OK), OK),
        ((OK, UNDECIDABLE), UNDECIDABLE),
        ((UNDECIDABLE, REVIEW, OK), REVIEW),
        ((OK, NOT_OK, REVIEW, UNDECIDABLE), NOT_OK),
    ],
)
def test_the_worst_view_decides(records: Records, decisions: tuple[Decision, ...], verdict: Decision) -> None:
    shots(records, *decisions)
    part = records.part("S")
    assert (part.verdict, part.after_review, part.shots) == (verdict, verdict, len(decisions))


def test_the_latest_shot_of_a_view_at_a_station_counts(records: Records) -> None:
    top = {"serial": "S", "view": "top", "station": "1"}
    records.save([record(1, NOT_OK, **top), record(2, OK, **top), record(3, OK, serial="S", view="side")]).result(20)
    part = records.part("S")
    assert (part.verdict, part.shots) == (OK, 3)
    assert [int(shot.id, 16) for shot in part.latest] == [3, 2]
    records.save([record(4, REVIEW, **(top | {"station": "2"}))]).result(20)
    assert records.part("S").verdict is REVIEW


def test_a_person_has_the_last_word(records: Records) -> None:
    shots(records, OK, NOT_OK)
    records.review(f"{2:032x}", Review("overkill", "Kim")).result(20)
    assert (records.part("S").verdict, records.part("S").after_review) == (NOT_OK, OK)
    records.review(f"{1:032x}", Review("escape", "Kim")).result(20)
    assert records.part("S").after_review is NOT_OK


def test_a_serial_of_several_products_must_be_told_apart(records: Records) -> None:
    records.save([record(1, OK, serial="S"), record(2, NOT_OK, serial="S", product="blister-pack")]).result(20)
    with pytest.raises(InvalidParameter, match="blister-pack, polka-dot"):
        records.part("S")
    assert records.part("S", "polka-dot").verdict is OK


@pytest.mark.parametrize("serial", ["", "unseen"])
def test_a_part_never_seen_has_no_verdict(records: Records, serial: str) -> None:
    shots(records, OK)
    records.save([record(9)]).result(20)
    with pytest.raises(NoSuchRecord):
        records.part(serial)
