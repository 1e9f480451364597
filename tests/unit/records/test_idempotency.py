from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from service.errors import BadRequest, Conflict, DeadlineExceeded, InvalidParameter, RecordsFailure
from service.records.idempotency import Answer, IdempotencyKeys
from service.records.inspections import Filters
from service.records.schema import idempotency
from service.records.store import Records
from tests.unit.records.making import Clock, record

BODY, OTHER = "a" * 64, "b" * 64
LONG = 60.0


def stored(records: Records) -> list[int]:
    return [int(found.id, 16) for found in records.inspections.page(Filters()).records]


class Requests:
    """Makes requests as the API would: each that works records an inspection of its own number."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.worked: list[int] = []

    async def ask(self, number: int, key: str = "key", body: str = BODY, seconds: float = LONG) -> Answer:
        async with self.records.keys.claim(key, body, deadline=time.monotonic() + seconds) as claim:
            if claim.answer is not None:
                return claim.answer
            self.worked.append(number)
            answer = Answer(200, "application/json", f'{{"id": {number}}}'.encode())
            await asyncio.wrap_future(self.records.save([record(number)], claim.storing(answer)))
            return answer


@pytest.fixture
def requests(records: Records) -> Requests:
    return Requests(records)


def test_a_hundred_at_once_leave_one_record_and_get_one_answer(requests: Requests) -> None:
    async def all_at_once() -> list[Answer]:
        return await asyncio.gather(*[requests.ask(number) for number in range(100)])

    answers = asyncio.run(all_at_once())
    assert answers == [Answer(200, "application/json", b'{"id": 0}')] * 100
    assert stored(requests.records) == [0]


def test_the_answer_outlives_the_process(requests: Requests, opened: Callable[[], Records]) -> None:
    first = asyncio.run(requests.ask(1))
    later = Requests(opened())
    assert asyncio.run(later.ask(2)) == first
    assert (later.worked, stored(later.records)) == ([], [1])


def test_other_keys_are_other_requests(requests: Requests) -> None:
    async def both() -> list[Answer]:
        return await asyncio.gather(requests.ask(1, "one"), requests.ask(2, "two"))

    one, two = asyncio.run(both())
    assert one != two
    assert stored(requests.records) == [2, 1]


def test_another_body_is_a_conflict_while_the_first_runs_and_after(requests: Requests) -> None:
    async def meanwhile() -> None:
        async with requests.records.keys.claim("key", BODY, deadline=time.monotonic() + LONG):
            with pytest.raises(Conflict):
                await requests.ask(2, body=OTHER)
        await requests.ask(1)
        with pytest.raises(Conflict):
            await requests.ask(2, body=OTHER)

    asyncio.run(meanwhile())
    assert stored(requests.records) == [1]


def test_a_request_that_failed_frees_its_key(requests: Requests) -> None:
    async def failing(begun: asyncio.Event, fail: asyncio.Event) -> None:
        async with requests.records.keys.claim("key", BODY, deadline=time.monotonic() + LONG):
            begun.set()
            await fail.wait()
            raise BadRequest("no")

    async def both() -> tuple[Any, Any]:
        begun, fail = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(failing(begun, fail))
        await begun.wait()
        second = asyncio.create_task(requests.ask(2))
        await asyncio.sleep(0)
        fail.set()
        return await asyncio.gather(first, second, return_exceptions=True)

    failure, answer = asyncio.run(both())
    assert isinstance(failure, BadRequest)
    assert answer.body == b'{"id": 2}'
    assert asyncio.run(requests.ask(3)) == answer
    assert stored(requests.records) == [2]


def test_a_client_that_leaves_frees_its_key(requests: Requests) -> None:
    async def departing() -> Answer:
        begun = asyncio.Event()

        async def first() -> None:
            async with requests.records.keys.claim("key", BODY, deadline=time.monotonic() + LONG):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(first())
        await begun.wait()
        task.cancel()
        return await requests.ask(2)

    assert asyncio.run(departing()).body == b'{"id": 2}'


def test_a_failed_record_leaves_no_answer(requests: Requests) -> None:
    async def failing() -> None:
        async with requests.records.keys.claim("key", BODY, deadline=time.monotonic() + LONG) as claim:
            broken = record(1, metadata={"not": {"json"}})
            await asyncio.wrap_future(requests.records.save([broken], claim.storing(Answer(200, "text/plain", b"x"))))

    with pytest.raises((RecordsFailure, TypeError)):
        asyncio.run(failing())
    assert asyncio.run(requests.ask(2)).body == b'{"id": 2}'


def test_waiting_ends_at_the_deadline(requests: Requests) -> None:
    async def waiting() -> None:
        async with requests.records.keys.claim("key", BODY, deadline=time.monotonic() + LONG):
            with pytest.raises(DeadlineExceeded):
                await requests.ask(2, seconds=0.05)

    asyncio.run(waiting())
    assert requests.worked == []


def test_another_process_waits_for_the_answer(records: Records, opened: Callable[[], Records], clock: Clock) -> None:
    there = Requests(opened())
    late = IdempotencyKeys(opened().writer, now=clock)

    async def both() -> tuple[Answer, Answer]:
        answer = Answer(200, "application/json", b"here")
        async with records.keys.claim("key", BODY, deadline=time.monotonic() + LONG) as claim:
            waiting = asyncio.create_task(there.ask(2))
            with pytest.raises(DeadlineExceeded):
                async with late.claim("key", BODY, deadline=time.monotonic()):
                    pass
            await asyncio.wrap_future(records.save([record(1)], claim.storing(answer)))
        return answer, await waiting

    mine, theirs = asyncio.run(both())
    assert mine == theirs
    assert there.worked == []
    assert stored(records) == [1]


def test_a_dead_process_frees_its_key_when_its_lease_ends(
    records: Records, opened: Callable[[], Records], clock: Clock
) -> None:
    late = Answer(200, "text/plain", b"late")
    successor = Requests(opened())

    async def taken_over() -> Answer:
        async with records.keys.claim("key", BODY, deadline=time.monotonic() + LONG) as claim:
            clock.time += timedelta(minutes=1)  # as if it had not renewed
            answer = await successor.ask(2)
            with pytest.raises(Conflict):
                await asyncio.wrap_future(records.save([record(1)], claim.storing(late)))
        return answer

    assert asyncio.run(taken_over()).body == b'{"id": 2}'
    assert stored(records) == [2]
    assert asyncio.run(Requests(records).ask(3)).body == b'{"id": 2}'


def test_a_long_request_renews_its_lease(records: Records, opened: Callable[[], Records], clock: Clock) -> None:
    keys = IdempotencyKeys(records.writer, lease=timedelta(milliseconds=30), now=clock)
    other = IdempotencyKeys(opened().writer, lease=timedelta(milliseconds=30), now=clock)

    async def long() -> None:
        async with keys.claim("key", BODY, deadline=time.monotonic() + LONG):
            for _ in range(3):
                clock.time += timedelta(milliseconds=20)
                await renewed()
            with pytest.raises(DeadlineExceeded):
                async with other.claim("key", BODY, deadline=time.monotonic()):
                    pass

    async def renewed() -> None:
        """Until the row's lease counts from the clock's present time."""
        while _lease(records) != clock.time + timedelta(milliseconds=30):
            await asyncio.sleep(0.005)

    asyncio.run(long())


def _lease(records: Records) -> datetime:
    with records.database.reading() as connection:
        return connection.execute(sa.select(idempotency.c.lease_until)).scalar_one()


def test_an_expired_answer_is_forgotten(requests: Requests, clock: Clock) -> None:
    asyncio.run(requests.ask(1))
    clock.time += timedelta(hours=25)
    assert asyncio.run(requests.ask(2, body=OTHER)).body == b'{"id": 2}'


@pytest.mark.parametrize("key", ["", "x" * 301, "a\nb"])
def test_a_key_that_is_none_is_refused(requests: Requests, key: str) -> None:
    with pytest.raises(InvalidParameter):
        asyncio.run(requests.ask(1, key=key))
