"""Retention: old records and pictures go, in small transactions so that writers never wait long.

Reviews, cases and the audit stay. So does an inspection that a living case was made of (its picture may go), so that every
case the memory cites can be opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service.errors import RecordsFailure
from service.records.database import Database
from service.records.pictures import GRACE_S, Kept, Pictures
from service.records.schema import cases, idempotency, inspections, masters
from service.records.writer import Writer

_BATCH = 200


@dataclass(frozen=True, slots=True)
class Keep:
    """What may stay: records younger than `age`, pictures up to `picture_bytes` in all; None: no limit."""

    age: timedelta | None = None
    picture_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Removed:
    """What a round of retention removed."""

    inspections: int
    pictures: int
    picture_bytes: int
    keys: int


class Retention:
    """Removes what Keep does not let stay. `masters`: the pictures of master parts, of which only those of parts that were refused
    or taken away go. `grace_s`: a picture received within it is never touched."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        pictures: Pictures,
        keep: Keep,
        *,
        masters: Pictures | None = None,
        grace_s: float = GRACE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._writer = writer
        self._pictures = pictures
        self._keep = keep
        self._masters = masters
        self._grace_s = grace_s
        self._now = now

    def run(self) -> Removed:
        """One round: expired keys, old inspections, pictures that nothing refers to, then the oldest pictures over the
        size. Blocks; to be called in a thread. Raises RecordsBusy, RecordsFailure; what was removed by then stays so."""
        try:
            return self._run()
        except OSError as error:
            raise RecordsFailure(f"the folder of pictures failed: {error.strerror or error}") from error

    def _run(self) -> Removed:
        keys = self._repeat(self._expire_keys)
        gone = 0 if self._keep.age is None else self._repeat(self._remove_old)
        orphans = self._sweep()
        excess = self._shrink()
        removed = orphans + excess
        return Removed(gone, len(removed), sum(kept.size for kept in removed), keys)

    def _repeat(self, batch: Callable[[sa.Connection], int]) -> int:
        total = 0
        while count := self._writer.submit(batch).result():
            total += count
        return total

    def _expire_keys(self, connection: sa.Connection) -> int:
        c = idempotency.c
        old = sa.select(c.key).where(c.expires_at <= self._now()).limit(_BATCH)
        return connection.execute(sa.delete(idempotency).where(c.key.in_(old))).rowcount

    def _remove_old(self, connection: sa.Connection) -> int:
        assert self._keep.age is not None
        c = inspections.c
        cited = sa.exists().where(cases.c.inspection_id == c.id)
        old = sa.select(c.id).where(c.created_at < self._now() - self._keep.age, ~cited).limit(_BATCH)
        ids = list(connection.execute(old).scalars())
        connection.execute(sa.delete(inspections).where(c.id.in_(ids)))  # words and labels go along
        return len(ids)

    def _sweep(self) -> list[Kept]:
        """Remove pictures that no record says is stored, and those of no master part."""
        stored = sa.select(inspections.c.image_sha256).where(inspections.c.picture_stored)
        removed = self._sweep_folder(self._pictures, stored)
        if self._masters is not None:
            removed += self._sweep_folder(self._masters, sa.select(masters.c.image_sha256))
        return removed

    def _sweep_folder(self, pictures: Pictures, referring: sa.Select[Any]) -> list[Kept]:
        """Remove the pictures of a folder whose hash is none of those in the rows `referring`."""
        removed, batch = [], []
        for kept in pictures.all():
            if not self._young(kept):
                batch.append(kept)
            if len(batch) >= _BATCH:
                removed += self._unlink(pictures, self._unreferred(batch, referring))
                batch = []
        return removed + self._unlink(pictures, self._unreferred(batch, referring))

    def _unreferred(self, batch: list[Kept], referring: sa.Select[Any]) -> list[Kept]:
        (sha256,) = referring.selected_columns
        query = referring.where(sha256.in_([kept.sha256 for kept in batch])).distinct()
        with self._database.reading() as connection:
            referred = set(connection.execute(query).scalars())
        return [kept for kept in batch if kept.sha256 not in referred]

    def _shrink(self) -> list[Kept]:
        """Remove the pictures received longest ago until the rest fits; their records say first that they are gone."""
        if self._keep.picture_bytes is None:
            return []
        kept = sorted(self._pictures.all(), key=lambda each: (each.received, each.sha256))
        excess = sum(each.size for each in kept) - self._keep.picture_bytes
        removed: list[Kept] = []
        batch: list[Kept] = []
        for each in kept:
            if excess <= 0 or self._young(each):
                break
            batch.append(each)
            excess -= each.size
            if len(batch) >= _BATCH:
                removed += self._forget(batch)
                batch = []
        return removed + self._forget(batch)

    def _forget(self, batch: list[Kept]) -> list[Kept]:
        c = inspections.c
        hashes = [kept.sha256 for kept in batch]

        def work(connection: sa.Connection) -> None:
            stored = sa.update(inspections).where(c.image_sha256.in_(hashes), c.picture_stored)
            connection.execute(stored.values(picture_stored=False))

        if batch:
            self._writer.submit(work).result()
        return self._unlink(self._pictures, batch)

    def _unlink(self, pictures: Pictures, batch: list[Kept]) -> list[Kept]:
        return [kept for kept in batch if pictures.remove(kept.sha256, self._grace_s)]

    def _young(self, kept: Kept) -> bool:
        return kept.received > self._now().timestamp() - self._grace_s
