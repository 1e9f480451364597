from __future__ import annotations

import asyncio
import hashlib
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.errors import Conflict, NoSuchRecord, RecordsFailure
from service.records.entities import Record, Review
from service.records.idempotency import Answer
from service.records.inspections import Filters
from service.records.pictures import Pictures
from service.records.retention import Keep, Removed, Retention
from service.records.schema import classifications, idempotency, labels
from service.records.store import Records
from service.types import Decision
from tests.unit.records.making import Clock, caption, record

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _real_time(clock: Clock) -> None:
    clock.time = datetime.now(UTC)  # files have the machine's


def retention(records: Records, clock: Clock, grace_s: float = HOUR, **keep: object) -> Retention:
    return Retention(
        records.database,
        records.writer,
        records.pictures,
        Keep(**keep),  # type: ignore[arg-type]
        masters=records.masters._pictures,
        grace_s=grace_s,
        now=clock,
    )


def pictured(records: Records, number: int, *, hours: float, size: int = 1000, **changes: object) -> Record:
    """A record with its picture, both so many hours old."""
    sha256 = records.keep_picture(number.to_bytes(2, "big") * (size // 2))
    moment = time.time() - hours * HOUR
    path = next(iter(Path(records.pictures._folder).rglob(f"{sha256}.bin")))
    os.utime(path, (moment, moment))
    fields = {
        "image_sha256": sha256,
        "picture_stored": True,
        "created_at": datetime.fromtimestamp(moment, UTC),
        **changes,
    }
    item = record(number, **fields)
    records.save([item]).result(20)
    return item


def left(records: Records) -> list[int]:
    return sorted(int(found.id, 16) for found in records.inspections.over(Filters()))


def test_without_limits_nothing_goes(records: Records, clock: Clock) -> None:
    item = pictured(records, 1, hours=90_000)
    assert retention(records, clock).run() == Removed(0, 0, 0, 0)
    assert records.pictures.get(item.image_sha256)


def test_old_records_go_with_their_words_and_pictures(
    records: Records, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.retention._BATCH", 3)
    old = [pictured(records, number, hours=50, caption=caption("a")) for number in range(8)]
    young = pictured(records, 9, hours=40, caption=caption("b"))
    assert retention(records, clock, age=timedelta(hours=48)).run() == Removed(8, 8, 8000, 0)
    assert left(records) == [9]
    assert records.pictures.get(young.image_sha256)
    for item in old:
        with pytest.raises(NoSuchRecord):
            records.pictures.get(item.image_sha256)
    with records.database.reading() as connection:
        for table in (classifications, labels):
            assert set(connection.execute(sa.select(table.c.inspection_id)).scalars()) == {young.id}


def test_a_picture_that_a_younger_record_shows_stays(records: Records, clock: Clock) -> None:
    old = pictured(records, 1, hours=50)
    records.save([record(2, image_sha256=old.image_sha256, picture_stored=True, created_at=clock.time)]).result(20)
    assert retention(records, clock, age=timedelta(hours=48)).run() == Removed(1, 0, 0, 0)
    assert records.pictures.get(old.image_sha256)


def test_what_people_said_stays(records: Records, clock: Clock) -> None:
    item = pictured(records, 1, hours=50, decision=Decision.NOT_OK)
    pictured(records, 2, hours=50)
    before = records.review(item.id, Review("right", "Kim", "hole")).result(20)
    records.review(f"{2:032x}", Review("escape", "Kim")).result(20)
    retention(records, clock, age=timedelta(hours=48)).run()
    (case,) = records.cases()
    assert before.case is not None
    assert case.descriptor.tolist() == before.case.descriptor.tolist()
    assert left(records) == [1]  # a case can always be opened
    assert [entry.subject for entry in records.audit()] == [item.id, f"{2:032x}"]
    records.review(item.id, Review("overkill", "Kim")).result(20)
    retention(records, clock, age=timedelta(hours=48)).run()
    assert left(records) == []
    assert len(records.audit()) == 3


def test_the_pictures_received_longest_ago_go_until_the_rest_fits(
    records: Records, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.retention._BATCH", 2)
    items = [pictured(records, number, hours=20 - number) for number in range(8)]
    removed = retention(records, clock, picture_bytes=3500).run()
    assert (removed.pictures, removed.picture_bytes, removed.inspections) == (5, 5000, 0)
    assert left(records) == list(range(8))
    assert [records.inspections.get(item.id).picture_stored for item in items] == [False] * 5 + [True] * 3
    assert {kept.sha256 for kept in records.pictures.all()} == {item.image_sha256 for item in items[5:]}


def test_a_young_picture_is_never_taken(records: Records, clock: Clock) -> None:
    data = b"received, its record not committed yet"
    records.keep_picture(data)
    item = pictured(records, 1, hours=0.5)
    assert retention(records, clock, age=timedelta(minutes=1), picture_bytes=0).run() == Removed(1, 0, 0, 0)
    assert records.pictures.get(hashlib.sha256(data).hexdigest()) == data
    assert records.pictures.get(item.image_sha256)
    clock.time += timedelta(hours=2)
    assert retention(records, clock, grace_s=-HOUR).run().pictures == 2


def test_pictures_of_master_parts_go_once_there_is_no_such_part(
    records: Records, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.records.retention._BATCH", 2)
    kept = records.masters._pictures

    def add(model: str, *pictures: bytes) -> list[str]:
        named = [("part", picture) for picture in pictures]
        return [each.id for each in records.masters.add(model, named, Decision.OK, "Kim").result(20)]

    first, *_ = add("cloth", b"a", b"b", b"c")
    shared, _ = add("metal", b"b", b"d")
    with pytest.raises(Conflict):
        add("cloth", b"e", b"f", b"a")
    records.masters.remove("cloth", first).result(20)
    records.masters.remove("metal", shared).result(20)  # the other model has it still
    assert retention(records, clock).run().pictures == 0  # a part of theirs may not be committed yet
    clock.time += timedelta(hours=2)
    for path in Path(kept._folder).rglob("*.bin"):
        os.utime(path, (time.time() - 2 * HOUR,) * 2)
    assert retention(records, clock).run() == Removed(0, 3, 3, 0)
    assert {each.sha256 for each in kept.all()} == {hashlib.sha256(data).hexdigest() for data in (b"b", b"c", b"d")}
    (last,) = add("cloth", b"g")
    records.masters.remove("cloth", last).result(20)
    for path in Path(kept._folder).rglob("*.bin"):
        os.utime(path, (0, 0))
    assert records.retention.run().pictures == 1  # the service's own, too


def test_a_folder_that_fails_is_a_failure(records: Records, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Pictures, sha256: str, grace_s: float) -> bool:
        raise PermissionError(13, "Permission denied")

    pictured(records, 1, hours=50)
    monkeypatch.setattr(Pictures, "remove", broken)
    with pytest.raises(RecordsFailure, match="Permission denied"):
        retention(records, clock, age=timedelta(hours=48)).run()


def test_expired_keys_go(records: Records, clock: Clock) -> None:
    async def ask(key: str) -> None:
        async with records.keys.claim(key, "a" * 64, deadline=time.monotonic() + 60) as claim:
            await asyncio.wrap_future(records.save([], claim.storing(Answer(200, "text/plain", b"x"))))

    asyncio.run(ask("old"))
    clock.time += timedelta(hours=25)
    asyncio.run(ask("new"))
    assert retention(records, clock).run().keys == 1
    with records.database.reading() as connection:
        assert connection.execute(sa.select(idempotency.c.key)).scalars().all() == ["new"]
