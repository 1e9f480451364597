"""Idempotency keys: the same key and request get the same answer and leave one record; another request is a conflict.

Within this process a second request waits for the first by a future. Across processes the first holds a lease on the key's
row, renewed while it runs, so that a process that died frees its keys within the lease.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from service.errors import Conflict, DeadlineExceeded, InvalidParameter, RecordsBusy, RecordsFailure
from service.records.database import upsert_for
from service.records.schema import idempotency
from service.records.writer import Work, Writer

_MOST_CHARACTERS = 300
_POLL_S = 0.1
_LEAST_WAIT_S = 1.0  # for the records, however little is left of the deadline: they take milliseconds


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it went out. `headers`: those that are part of it, by their names in lower case."""

    status: int
    media_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Claim:
    """The right to answer a key's request; `answer` is there when it was answered before."""

    def __init__(self, key: str, owner: str, answer: Answer | None) -> None:
        self.answer = answer
        self.written: Answer | None = None
        self._key = key
        self._owner = owner

    def storing(self, answer: Answer) -> Work[None]:
        """Work that stores the answer; submit it in one piece with the records it speaks of, so that both are there or
        neither. Raises Conflict, and thereby undoes that piece, when the lease was lost to another process."""
        c = idempotency.c

        def work(connection: sa.Connection) -> None:
            mine = sa.update(idempotency).where(c.key == self._key, c.owner == self._owner, c.status.is_(None))
            values = {
                "status": answer.status,
                "media_type": answer.media_type,
                "answer": answer.body,
                "headers": dict(answer.headers),
            }
            if not connection.execute(mine.values(**values)).rowcount:
                raise Conflict("another process answered this Idempotency-Key meanwhile; ask again for its answer")
            self.written = answer

        return work


@dataclass(frozen=True, slots=True)
class _Running:
    """A request of this process that has a key: its body, and its answer once there is one."""

    body_sha256: str
    answered: asyncio.Future[Answer | None]


class IdempotencyKeys:
    """Keys of one event loop. `keep`: how long an answer is kept; `lease`: how long a dead process holds its keys."""

    def __init__(
        self,
        writer: Writer,
        *,
        keep: timedelta = timedelta(hours=24),
        lease: timedelta = timedelta(seconds=15),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._writer = writer
        self._keep = keep
        self._lease = lease
        self._now = now
        self._running: dict[str, _Running] = {}

    @asynccontextmanager
    async def claim(self, key: str, body_sha256: str, *, deadline: float, scope: str = "") -> AsyncIterator[Claim]:
        """Claim a key until the block ends; waits while another request has it, until `deadline` (time.monotonic()).

        In the block: return `claim.answer` if there is one, else work and commit `claim.storing`. A block left without
        that, or by an error, frees the key, and the next request of it begins anew. Keys of different `scope` never meet: it tells
        callers apart, who may not see each other's answers.
        Raises Conflict for another request, DeadlineExceeded, InvalidParameter for the key, RecordsBusy, RecordsFailure.
        """
        if not key.strip() or len(key) > _MOST_CHARACTERS or not key.isprintable():
            raise InvalidParameter(f"Idempotency-Key must be 1 to {_MOST_CHARACTERS} printable characters")
        key = f"{scope} {key}" if scope else key
        owner = uuid.uuid4().hex
        if (answer := await self._turn(key, body_sha256, deadline)) is not None:
            yield Claim(key, owner, answer)
            return
        mine = _Running(body_sha256, asyncio.get_running_loop().create_future())
        self._running[key] = mine
        claim = None
        try:
            claim = Claim(key, owner, await self._take(key, body_sha256, owner, deadline))
            if claim.answer is not None:
                claim.written = claim.answer
                yield claim
            else:
                async with self._leased(key, owner):
                    yield claim
        except BaseException:
            if claim is not None and claim.answer is None:
                claim.written = None
            raise
        finally:
            del self._running[key]
            mine.answered.set_result(claim.written if claim is not None else None)
            if claim is None or claim.written is None:
                await self._free(key, owner)

    async def _turn(self, key: str, body_sha256: str, deadline: float) -> Answer | None:
        """Wait until no request of this process has the key; the answer of the one waited for, if it gave one."""
        while (running := self._running.get(key)) is not None:
            _same_body(running.body_sha256, body_sha256)
            done, _ = await asyncio.wait({running.answered}, timeout=max(0.0, deadline - time.monotonic()))
            if not done:
                raise DeadlineExceeded("the deadline passed while an earlier request of this Idempotency-Key ran")
            if (answer := running.answered.result()) is not None:
                return answer
        return None

    async def _take(self, key: str, body_sha256: str, owner: str, deadline: float) -> Answer | None:
        """The stored answer, or None once the key's row is ours."""
        while True:
            try:
                async with asyncio.timeout(max(_LEAST_WAIT_S, deadline - time.monotonic())):
                    row = await asyncio.wrap_future(self._writer.submit(self._claiming(key, body_sha256, owner)))
            except TimeoutError as error:
                raise RecordsFailure("the records did not take the Idempotency-Key in time") from error
            _same_body(row["body_sha256"], body_sha256)
            if row["status"] is not None:
                return Answer(row["status"], row["media_type"], row["answer"], row["headers"])
            if row["owner"] == owner:
                return None
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded("the deadline passed while another process worked on this Idempotency-Key")
            await asyncio.sleep(min(_POLL_S, left))

    def _claiming(self, key: str, body_sha256: str, owner: str) -> Work[sa.RowMapping]:
        c = idempotency.c

        def work(connection: sa.Connection) -> sa.RowMapping:
            now = self._now()
            fresh = {
                "body_sha256": body_sha256,
                "created_at": now,
                "expires_at": now + self._keep,
                "owner": owner,
                "lease_until": now + self._lease,
                "status": None,
                "media_type": "",
                "answer": None,
                "headers": {},
            }
            insert = upsert_for(connection.dialect.name, idempotency).values(key=key, **fresh)
            abandoned = sa.or_(c.expires_at <= now, sa.and_(c.status.is_(None), c.lease_until <= now))
            connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=fresh, where=abandoned))
            return connection.execute(sa.select(idempotency).where(c.key == key)).mappings().one()

        return work

    @asynccontextmanager
    async def _leased(self, key: str, owner: str) -> AsyncIterator[None]:
        renewal = asyncio.create_task(self._renew(key, owner))
        try:
            yield
        finally:
            renewal.cancel()

    async def _renew(self, key: str, owner: str) -> None:
        """Keep the lease while the request runs; a quick one ends before the first renewal."""
        c = idempotency.c
        mine = (c.key == key, c.owner == owner, c.status.is_(None))

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.update(idempotency).where(*mine).values(lease_until=self._now() + self._lease))

        while True:
            await asyncio.sleep(self._lease.total_seconds() / 3)
            with suppress(RecordsBusy, RecordsFailure):  # the next renewal may still be in time
                await asyncio.wrap_future(self._writer.submit(work))

    async def _free(self, key: str, owner: str) -> None:
        """Give the key back. Shielded: a departing client must not leave it locked. What the records take longer for, they
        do when they can."""
        c = idempotency.c

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(idempotency).where(c.key == key, c.owner == owner, c.status.is_(None)))

        with suppress(RecordsBusy, RecordsFailure, TimeoutError):  # then the lease frees it
            async with asyncio.timeout(_LEAST_WAIT_S):
                await asyncio.shield(asyncio.wrap_future(self._writer.submit(work)))


def _same_body(one: str, other: str) -> None:
    if one != other:
        raise Conflict(
            "this Idempotency-Key was used for another request: body, query, metadata or headers such as Accept differ"
        )
