from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidParameter, NoSuchRecord, RecordsFailure
from service.records.entities import Caption, Review
from service.records.inspections import Filters
from service.records.paging import Place, read_cursor, write_cursor
from service.records.rows import caption_row, record_of
from service.records.schema import classifications
from service.records.store import Records
from service.types import AnomalyMap, Decision, Inspection, Thresholds, TilePlan, Timings, Verdict
from tests.unit.records.making import MODEL, START, caption, record, region, words


def saved(records: Records, *items: Any) -> None:
    records.save(items).result(20)


def ids(records: Records, **filters: Any) -> list[int]:
    return [int(found.id, 16) for found in records.inspections.page(Filters(**filters)).records]


def test_a_record_comes_back_as_it_was(records: Records) -> None:
    east = timezone(timedelta(hours=9))
    item = record(
        1,
        Decision.NOT_OK,
        lot="L",
        serial="S",
        station="line 2",
        view="top",
        captured_at=datetime(2026, 3, 9, 15, 0, 0, 123456, tzinfo=east),
        metadata={"operator": "Zoë 漢字"},
        reasons=("too dark",),
        regions=(region(0.4), region(0.3, x=80)),
        descriptors=np.arange(8, dtype=np.float32).reshape(2, 4) / 3,
        caption=caption("thread", "hole"),
        picture_stored=True,
    )
    saved(records, item)
    found = records.inspections.get(item.id)
    assert np.array_equal(found.descriptors, item.descriptors)  # type: ignore[arg-type]
    assert replace(found, descriptors=None) == replace(item, descriptors=None)
    assert found.captured_at is not None
    assert found.captured_at.utcoffset() == timedelta(0)


def test_numbers_that_json_has_not_and_texts_that_databases_refuse_are_kept_safe(records: Records) -> None:
    shape = np.zeros((150, 200, 3), np.uint8)
    cells = np.full((2, 2), -np.inf, np.float32)
    plan = TilePlan(200, 150, 200, 150, (), 2, 2)
    inspection = Inspection(
        id="f" * 32,
        model=MODEL,
        sha256="a" * 64,
        pixels=lambda: shape,
        anomaly_map=AnomalyMap(cells, cells, None, plan),
        verdict=Verdict(Decision.UNDECIDABLE, -np.inf, Thresholds(0.1, 0.2), 1.0, (), ("nothing inside",)),
        timings=Timings(decode=1.5),
        metadata={
            "serial": "S\x001",
            "lot": " L7 ",
            "view": "top",
            "captured_at": "2026-03-09T06:00",
            "product": "other",
            "n\x00te": "a\ud800b",
        },
        descriptors=np.zeros((0, 384), np.float32),
    )
    item = record_of(inspection, request_id="r", product="polka-dot", teacher_sha256="e" * 64, created_at=START)
    saved(records, item)
    found = records.inspections.get(item.id)
    assert (found.score, found.p_value, found.width, found.height) == (None, 1.0, 200, 150)
    assert (found.serial, found.lot, found.view, found.product) == ("S\ufffd1", "L7", "top", "polka-dot")
    assert found.captured_at == datetime(2026, 3, 9, 6, 0, tzinfo=UTC)
    assert found.metadata == {"n\ufffdte": "a?b"}
    with pytest.raises(InvalidParameter, match="serial"):
        record_of(
            replace(inspection, metadata={"serial": "x" * 201}),
            request_id="r",
            product="p",
            teacher_sha256="",
            created_at=START,
        )


def test_a_time_that_cannot_be_read_stays_in_the_metadata(records: Records) -> None:
    plan = TilePlan(1, 1, 1, 1, (), 1, 1)
    cells = np.zeros((1, 1), np.float32)
    inspection = Inspection(
        "b" * 32,
        MODEL,
        "a" * 64,
        lambda: np.zeros((1, 1, 3), np.uint8),
        AnomalyMap(cells, cells, None, plan),
        Verdict(Decision.OK, 0.0, Thresholds(0.1, 0.2), 1.0, ()),
        Timings(),
        {"captured_at": "yesterday"},
    )
    item = record_of(inspection, request_id="", product="p", teacher_sha256="", created_at=START)
    assert (item.captured_at, item.metadata) == (None, {"captured_at": "yesterday"})


def test_a_record_written_twice_is_one(records: Records) -> None:
    saved(records, record(1, caption=caption("a")))
    saved(records, record(1, caption=caption("b")), record(2))
    assert ids(records) == [2, 1]
    assert records.inspections.get(f"{1:032x}").caption == caption("a")


def test_words_of_before_there_were_citations_and_suggestions_are_read(records: Records) -> None:
    saved(records, record(1, Decision.NOT_OK, caption=caption("thread")))
    written = caption_row(f"{1:032x}", caption("thread"), START)
    for item in (written["picture"], *written["regions"]):
        del item["cited"], item["suggested_severity"]
    with records.database.writing() as connection:
        connection.execute(classifications.update().values(written))
    old = words("thread", cited=(), suggested_severity=None)
    assert records.inspections.get(f"{1:032x}").caption == Caption(old, (old,), caption("thread").llm)


def test_what_is_not_there_is_said_so(records: Records) -> None:
    with pytest.raises(NoSuchRecord):
        records.inspections.get("nothing")
    with pytest.raises(NoSuchRecord):
        records.caption("nothing", caption("a")).result(20)


def test_words_may_come_later_and_again(records: Records) -> None:
    saved(records, record(1, Decision.NOT_OK))
    records.caption(f"{1:032x}", caption("thread")).result(20)
    assert ids(records, label="thread") == [1]
    records.caption(f"{1:032x}", caption("hole")).result(20)
    assert records.inspections.get(f"{1:032x}").caption == caption("hole")
    assert (ids(records, label="thread"), ids(records, label="hole")) == ([], [1])


def test_filters_choose_and_combine(records: Records) -> None:
    saved(
        records,
        record(1, lot="A", station="s1"),
        record(2, Decision.NOT_OK, lot="A", serial="X", caption=caption("hole")),
        record(3, Decision.REVIEW, lot="B", product="blister-pack", caption=caption("thread", "hole")),
        record(4, Decision.UNDECIDABLE, station="s1"),
    )
    assert ids(records) == [4, 3, 2, 1]
    assert ids(records, lot="A") == [2, 1]
    assert ids(records, serial="X") == [2]
    assert ids(records, station="s1") == [4, 1]
    assert ids(records, product="blister-pack") == [3]
    assert ids(records, verdicts=(Decision.UNDECIDABLE,)) == [4]
    assert ids(records, label="hole") == [3, 2]
    assert ids(records, label="hole", lot="A") == [2]
    assert ids(records, since=START + timedelta(seconds=2), until=START + timedelta(seconds=4)) == [3, 2]
    assert ids(records, lot="none") == []


def test_pages_neither_repeat_nor_skip_while_records_are_added(records: Records) -> None:
    same_time = {"created_at": START + timedelta(seconds=3)}
    saved(records, *[record(number, **(same_time if 3 <= number <= 9 else {})) for number in range(1, 13)])
    seen, cursor, added = [], None, 100
    while True:
        page = records.inspections.page(Filters(), cursor=cursor, limit=2)
        seen += [int(found.id, 16) for found in page.records]
        if page.cursor is None:
            break
        cursor = page.cursor
        saved(records, record(added))
        added += 1
    assert seen == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert [
        int(found.id, 16) for found in records.inspections.over(Filters(until=START + timedelta(seconds=50)))
    ] == seen


def test_going_over_a_span_reads_all_of_it(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.records.inspections._AT_ONCE", 3)
    for count in (0, 1, 3, 7):
        saved(records, *[record(number) for number in range(count)])
        assert [int(found.id, 16) for found in records.inspections.over(Filters())] == list(reversed(range(count)))


def test_a_cursor_belongs_to_its_listing(records: Records) -> None:
    saved(records, record(1), record(2))
    cursor = records.inspections.page(Filters(), limit=1).cursor
    with pytest.raises(InvalidParameter):
        records.inspections.page(Filters(lot="A"), cursor=cursor)
    for limit in (0, 501):
        with pytest.raises(InvalidParameter):
            records.inspections.page(Filters(), limit=limit)


@pytest.mark.parametrize("word", ["\x00", "\ud800", "'; DROP TABLE inspections; --", "x" * 5000])
def test_strange_words_are_only_words(records: Records, word: str) -> None:
    saved(records, record(1))
    for name in ("product", "lot", "serial", "station", "label"):
        assert ids(records, **{name: word}) == []
    with pytest.raises(NoSuchRecord):
        records.inspections.get(word)
    with pytest.raises(NoSuchRecord):
        records.part(word, word)
    with pytest.raises(NoSuchRecord):
        records.review(word, Review("right", "Kim")).result(20)
    assert ids(records) == [1]


@pytest.mark.parametrize(
    "moment", [datetime(2026, 3, 9), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))], ids=["naive", "early"]
)
def test_a_span_outside_time_is_refused(records: Records, moment: datetime) -> None:
    for name, told in (("since", "from"), ("until", "to")):  # as the query calls them
        with pytest.raises(InvalidParameter, match=rf"^{told} "):
            ids(records, **{name: moment})


def test_a_database_that_fails_is_told_without_its_words(records: Records) -> None:
    with records.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE inspections RENAME TO secret")
    with pytest.raises(RecordsFailure) as failure:
        ids(records)
    assert "inspections" not in failure.value.detail


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        read_cursor(text, "filters")


@settings(deadline=None)
@given(st.datetimes(timezones=st.just(UTC)), st.text(alphabet="0123456789abcdef", min_size=1, max_size=32))
def test_a_cursor_is_read_as_it_was_written(moment: datetime, last: str) -> None:
    assert read_cursor(write_cursor(Place(moment, last), "f"), "f") == Place(moment, last)
