"""One thread that writes: what waits is committed together, and a future resolves once its work is durable."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

import sqlalchemy as sa

from service.errors import FlawscribeError, RecordsBusy
from service.records.database import Database, refusal

T = TypeVar("T")
Work = Callable[[sa.Connection], T]
_LEAST_WAIT_S = 0.05
# the database's failures, whatever the work: no connection came free, it cannot be reached, or it was lost
_DATABASE_FAILS = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


@dataclass(slots=True)
class _Item:
    work: Work[Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None
    begun: bool = False
    error: Exception | None = None


class Writer:
    """Group commit. `capacity`: how many works may wait; `most`: how many one transaction holds."""

    def __init__(self, database: Database, *, capacity: int = 1024, most: int = 256) -> None:
        self._database = database
        self._capacity = capacity
        self._most = most
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._open = True
        self._work_s = 0.001  # recent seconds per work, for retry_after
        self._thread = threading.Thread(target=self._run, name="flawscribe-records", daemon=True)
        self._thread.start()

    def submit(self, work: Work[T]) -> Future[T]:
        """Queue `work(connection)`; the future gives its result after the commit, or the error it raised.

        A work writes all it wants or, when it raises, nothing; it may be run twice, the first time rolled back, so it must
        keep no state of its own. Raises RecordsBusy when the queue is full or the writer is closed. A future cancelled
        before its work began is not run.
        """
        item = _Item(work)
        with self._lock:
            if not self._open:
                raise RecordsBusy("the records are being closed", retry_after=1.0)
            if self._pending >= self._capacity:
                wait = max(_LEAST_WAIT_S, self._pending * self._work_s)
                raise RecordsBusy(f"{self._pending} records wait to be written", retry_after=wait)
            self._pending += 1
            self._waiting.put(item)
        return item.future

    def close(self) -> None:
        """Write what waits, then end the thread. Later submissions are refused."""
        with self._lock:
            if self._open:
                self._open = False
                self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        going = True
        while going:
            group: list[_Item] = []
            item = self._waiting.get()
            while item is not None:
                group.append(item)
                if len(group) >= self._most:
                    break
                try:
                    item = self._waiting.get_nowait()
                except queue.Empty:
                    break
            going = item is not None
            if group:
                self._write(group)

    def _write(self, group: list[_Item]) -> None:
        with self._lock:
            self._pending -= len(group)
        running = [item for item in group if item.future.set_running_or_notify_cancel()]
        if not running:
            return
        started = time.perf_counter()
        try:
            self._commit(running)
        except Exception as error:
            self._one_by_one(running, error)
        self._work_s = 0.8 * self._work_s + 0.2 * (time.perf_counter() - started) / len(running)
        for item in running:
            if item.error is None:
                item.future.set_result(item.result)
            else:
                item.future.set_exception(item.error)

    def _commit(self, items: Sequence[_Item]) -> None:
        """All in one transaction; one that refuses is rolled back to its savepoint and does not touch the others."""
        with self._database.writing() as connection:
            for item in items:
                item.begun, item.error = True, None
                try:
                    with connection.begin_nested():
                        item.result = item.work(connection)
                except (FlawscribeError, sa.exc.IntegrityError, sa.exc.DataError) as error:
                    item.error = _told(error)

    def _one_by_one(self, items: Sequence[_Item], error: Exception) -> None:
        """After a failed group: each alone, so that only the guilty one fails; all, when it is the database that fails."""
        again = len(items) > 1 and items[0].begun  # not when no transaction could begin: that would only wait once more
        for place, item in enumerate(items):
            if again:
                try:
                    self._commit([item])
                    continue
                except Exception as own:
                    error = own
            item.error = _told(error)
            if isinstance(error, _DATABASE_FAILS):
                for rest in items[place + 1 :]:
                    rest.error = _told(error)
                return


def _told(error: Exception) -> Exception:
    if isinstance(error, sa.exc.SQLAlchemyError):
        failure = refusal(error)
        failure.__cause__ = error
        return failure
    return error
