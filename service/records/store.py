"""The records as the service uses them: opened once, shared by all; owns database, writer and pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from service.records.audit import add_entry, read_entries
from service.records.cases import read_cases
from service.records.changes import CaseChanges, present_mark, read_changes
from service.records.database import open_database
from service.records.entities import AuditEntry, Caption, DailySpend, Record, Review, StoredCase
from service.records.idempotency import IdempotencyKeys
from service.records.inspections import Inspections, insert_caption, insert_record
from service.records.masters import Masters
from service.records.parts import PartVerdict, part_verdict
from service.records.pictures import Pictures
from service.records.retention import Keep, Retention
from service.records.reviews import ReviewOutcome, ReviewWork, read_accepted
from service.records.shadows import Shadows
from service.records.spend import add_spend, read_spend
from service.records.writer import Work, Writer


@dataclass(frozen=True, slots=True)
class RecordsOptions:
    """Where records are kept and how much waits. `url`: PostgreSQL, else SQLite in `folder`, where the pictures are too.

    `capacity`: works that may wait for the writer before RecordsBusy; `keep_answers`: life of an idempotency key.
    """

    folder: Path
    url: str | None = None
    capacity: int = 1024
    keep: Keep = field(default_factory=Keep)
    keep_answers: timedelta = timedelta(hours=24)


class Records:
    """All records. Any thread; methods that give a future return at once, the others block on the database or a disk."""

    def __init__(self, options: RecordsOptions, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Open, and bring the schema up to date. Raises SettingsError, RecordsFailure."""
        self._now = now
        self.database = open_database(options.folder, options.url)
        try:
            self._accepted = read_accepted(self.database)
        except BaseException:  # opening is tried again: no connection may stay
            self.database.close()
            raise
        self.writer = Writer(self.database, capacity=options.capacity)
        self.pictures = Pictures(options.folder / "pictures")
        self.inspections = Inspections(self.database)
        self.keys = IdempotencyKeys(self.writer, keep=options.keep_answers, now=now)
        shown = Pictures(options.folder / "masters")
        self.retention = Retention(self.database, self.writer, self.pictures, options.keep, masters=shown, now=now)
        self.masters = Masters(self.database, self.writer, shown, now)
        self.shadows = Shadows(self.database, self.writer, now)

    def close(self) -> None:
        """Write what waits and close."""
        self.writer.close()
        self.database.close()

    def save(self, records: Sequence[Record], also: Work[Any] | None = None) -> Future[None]:
        """Write inspections, and `also` (a claim's `storing`), as one piece. Once the future is done they survive a kill of
        the process and the loss of power. Raises RecordsBusy; the future may hold RecordsFailure."""

        def work(connection: sa.Connection) -> None:
            for record in records:
                insert_record(connection, record)
            if also is not None:
                also(connection)

        return self.writer.submit(work)

    def caption(self, inspection_id: str, caption: Caption) -> Future[None]:
        """Write an inspection's words later than itself. Raises RecordsBusy; the future may hold NoSuchRecord."""
        at = self._now()
        return self.writer.submit(lambda connection: insert_caption(connection, inspection_id, caption, at))

    def review(
        self, inspection_id: str, review: Review, also: Callable[[ReviewOutcome], Work[Any]] | None = None
    ) -> Future[ReviewOutcome]:
        """Add a person's review, see ReviewWork, and as one piece with it what `also` makes of the outcome. Raises
        InvalidParameter, RecordsBusy; the future may hold NoSuchRecord."""
        reviewing = ReviewWork(inspection_id, review, self._now())

        def work(connection: sa.Connection) -> ReviewOutcome:
            outcome = reviewing(connection)
            if also is not None:
                also(outcome)(connection)
            return outcome

        done: Future[ReviewOutcome] = Future()
        written = self.writer.submit(work)
        written.add_done_callback(lambda future: self._reviewed(future, done))
        return done

    def part(self, serial: str, product: str | None = None) -> PartVerdict:
        """One verdict for a part; see part_verdict."""
        return part_verdict(self.database, serial, product)

    def cases(self, product: str | None = None) -> Iterator[StoredCase]:
        """Every case, for the memory."""
        return read_cases(self.database, product=product)

    def case_mark(self) -> int:
        """Where the cases stand; take it before reading them, and ask `case_changes` from there on."""
        return present_mark(self.database)

    def case_changes(self, mark: int) -> CaseChanges:
        """What any service's reviews changed in the cases after `mark`; the labels they accepted are known from then on."""
        changes = read_changes(self.database, mark)
        if changes.mark != mark:
            self.refresh_accepted()
        return changes

    def accepted(self, product: str) -> tuple[str, ...]:
        """The labels that reviews have accepted for a product, oldest first; from memory."""
        return self._accepted.get(product, ())

    def refresh_accepted(self) -> None:
        """Read anew the labels that other processes' reviews have accepted."""
        self._accepted = read_accepted(self.database)

    def spent(self, day: date) -> DailySpend:
        """What all services on these records spent on the LLM on a UTC day."""
        return read_spend(self.database, day)

    def spend(self, more: DailySpend) -> Future[DailySpend]:
        """Add to a day's spending; the future gives the day's sum. Raises RecordsBusy; the future may hold RecordsFailure."""
        return self.writer.submit(lambda connection: add_spend(connection, more))

    def model_changed(self, who: str, name: str, detail: dict[str, Any]) -> Future[None]:
        """Note in the audit that a model was activated, or otherwise changed. Raises RecordsBusy."""
        at = self._now()
        return self.writer.submit(
            lambda connection: add_entry(connection, at=at, who=who, kind="model", subject=name, detail=detail)
        )

    def audit(
        self, *, after: int = 0, limit: int = 100, kind: str | None = None, subject: str | None = None
    ) -> tuple[AuditEntry, ...]:
        """Entries of the audit, oldest first, with ids above `after`."""
        return read_entries(self.database, after=after, limit=limit, kind=kind, subject=subject)

    def keep_picture(self, data: bytes) -> str:
        """Store a picture durably before its record is saved; its sha256. Raises RecordsFailure."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.pictures.put(sha256, data)
        return sha256

    def _reviewed(self, written: Future[ReviewOutcome], done: Future[ReviewOutcome]) -> None:
        """Take the label into `accepted` before the review's future resolves. Runs in the writer's thread alone, and puts a
        new dict in place of the old one, so that readers need no lock."""
        wanted = done.set_running_or_notify_cancel()  # a review is written even when nobody waits for it any more
        error = written.exception()
        if error is None:
            outcome = written.result()
            if outcome.accepted is not None:
                product, label = outcome.accepted, outcome.review.review.label
                self._accepted = {**self._accepted, product: (*self._accepted.get(product, ()), label)}
            if wanted:
                done.set_result(outcome)
        elif wanted:
            done.set_exception(error)
