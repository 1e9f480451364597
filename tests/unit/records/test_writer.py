from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from service.errors import NoSuchRecord, RecordsBusy, RecordsFailure
from service.records import database as database_module
from service.records.schema import accepted_labels
from service.records.store import Records, RecordsOptions
from service.records.writer import Writer
from tests.unit.records.making import START


def labelled(label: str) -> Callable[[sa.Connection], str]:
    def work(connection: sa.Connection) -> str:
        connection.execute(sa.insert(accepted_labels), {"product": "p", "label": label, "at": START, "who": "w"})
        return label

    return work


def written(records: Records) -> set[str]:
    with records.database.reading() as connection:
        return set(connection.execute(sa.select(accepted_labels.c.label)).scalars())


class Held:
    """Holds the writer inside a work until it is let go, so that what is submitted meanwhile waits."""

    def __init__(self, writer: Writer) -> None:
        self._begun, self._go = threading.Event(), threading.Event()
        self.future: Future[None] = writer.submit(self._wait)
        assert self._begun.wait(20)

    def _wait(self, connection: sa.Connection) -> None:
        self._begun.set()
        assert self._go.wait(20)

    def let_go(self) -> None:
        self._go.set()


def test_what_waits_is_committed_together_and_is_there_once_acknowledged(records: Records) -> None:
    commits = []
    for engine in (records.database.engine, records.database.writing_engine):
        sa.event.listen(engine, "commit", lambda connection: commits.append(1))
    held = Held(records.writer)
    futures = [records.writer.submit(labelled(str(number))) for number in range(50)]
    assert not any(future.done() for future in futures)
    held.let_go()
    assert [future.result(20) for future in futures] == [str(number) for number in range(50)]
    assert written(records) == {str(number) for number in range(50)}
    assert len(commits) <= 3  # held, the fifty, and the reading


def test_a_work_that_refuses_undoes_only_itself(records: Records) -> None:
    def refused(connection: sa.Connection) -> None:
        labelled("half")(connection)
        raise NoSuchRecord("no")

    held = Held(records.writer)
    good = [records.writer.submit(labelled("a")), records.writer.submit(labelled("b"))]
    bad, twice = records.writer.submit(refused), records.writer.submit(labelled("a"))
    late = records.writer.submit(labelled("c"))
    held.let_go()
    assert [future.result(20) for future in [*good, late]] == ["a", "b", "c"]
    with pytest.raises(NoSuchRecord):
        bad.result(20)
    with pytest.raises(RecordsFailure):
        twice.result(20)
    assert written(records) == {"a", "b", "c"}


def test_an_unforeseen_error_fails_the_guilty_one_alone(records: Records) -> None:
    def broken(connection: sa.Connection) -> None:
        labelled("half")(connection)
        json.dumps({"set": set()})

    held = Held(records.writer)
    first, bad = records.writer.submit(labelled("a")), records.writer.submit(broken)
    last = records.writer.submit(labelled("b"))
    held.let_go()
    assert (first.result(20), last.result(20)) == ("a", "b")
    with pytest.raises(TypeError):
        bad.result(20)
    assert written(records) == {"a", "b"}


def test_a_commit_that_fails_acknowledges_nothing(
    records: Records, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = records.database.writing

    @contextmanager
    def failing() -> Any:
        with original() as connection:
            yield connection
            raise sa.exc.OperationalError("COMMIT", None, Exception("disk full"))

    monkeypatch.setattr(records.database, "writing", failing)
    held = Held(records.writer)
    futures = [records.writer.submit(labelled(str(number))) for number in range(3)]
    held.let_go()
    for future in futures:
        with pytest.raises(RecordsFailure, match="OperationalError"):
            future.result(20)
    assert "disk full" in caplog.text
    assert written(records) == set()


def test_readers_of_all_connections_do_not_keep_the_writer_waiting(records: Records) -> None:
    pool = records.database.engine.pool
    assert isinstance(pool, sa.QueuePool)
    with ExitStack() as reading:
        for _ in range(pool.size() + pool._max_overflow):
            reading.enter_context(records.database.reading())
        assert records.writer.submit(labelled("a")).result(20) == "a"
    assert written(records) == {"a"}


@pytest.mark.parametrize(
    ("error", "begins", "tries"),
    [
        # nothing could begin: the group fails at once
        (sa.exc.TimeoutError("no connection came free"), False, 1),
        (sa.exc.OperationalError("BEGIN IMMEDIATE", None, Exception("database is locked")), False, 1),
        (sa.exc.InterfaceError("SELECT 1", None, Exception("the connection is closed")), False, 1),
        # it was lost on the way: the first is tried again, to see whether it is back
        (sa.exc.OperationalError("COMMIT", None, Exception("the connection is lost")), True, 2),
        (sa.exc.InterfaceError("COMMIT", None, Exception("the connection is closed")), True, 2),
    ],
)
def test_a_database_that_fails_is_not_waited_for_once_for_each(
    records: Records, monkeypatch: pytest.MonkeyPatch, error: sa.exc.SQLAlchemyError, begins: bool, tries: int
) -> None:
    original, tried = records.database.writing, []

    @contextmanager
    def failing() -> Any:
        tried.append(1)
        if not begins:
            raise error
        with original() as connection:
            yield connection
            raise error

    held = Held(records.writer)
    monkeypatch.setattr(records.database, "writing", failing)
    futures = [records.writer.submit(labelled(str(number))) for number in range(5)]
    held.let_go()
    for future in futures:
        with pytest.raises(RecordsFailure, match=type(error).__name__):
            future.result(20)
    assert len(tried) == tries
    assert written(records) == set()


def test_a_database_that_another_process_locks_is_waited_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database_module, "_BUSY_MS", 1)
    records = Records(RecordsOptions(tmp_path))
    other = sqlite3.connect(tmp_path / "records.sqlite", isolation_level=None, check_same_thread=False)
    original, tried = records.database.writing, []

    def locked() -> Any:
        if not tried:
            other.execute("BEGIN IMMEDIATE")
        tried.append(1)
        return original()

    held = Held(records.writer)
    monkeypatch.setattr(records.database, "writing", locked)
    futures = [records.writer.submit(labelled(str(number))) for number in range(5)]
    held.let_go()
    for future in futures:
        with pytest.raises(RecordsFailure, match="OperationalError"):
            future.result(20)
    assert len(tried) == 1
    assert "database is locked" in caplog.text
    other.execute("ROLLBACK")
    other.close()
    assert records.writer.submit(labelled("later")).result(20) == "later"
    records.close()


def test_a_full_queue_says_when_to_come_back(records: Records) -> None:
    writer = Writer(records.database, capacity=2)
    held = Held(writer)
    waiting = [writer.submit(labelled("a")), writer.submit(labelled("b"))]
    with pytest.raises(RecordsBusy) as refusal:
        writer.submit(labelled("c"))
    assert refusal.value.retry_after is not None
    assert refusal.value.retry_after > 0
    held.let_go()
    assert [future.result(20) for future in waiting] == ["a", "b"]
    assert writer.submit(labelled("c")).result(20) == "c"
    writer.close()


def test_a_work_cancelled_while_it_waits_is_not_run(records: Records) -> None:
    held = Held(records.writer)
    dropped, kept = records.writer.submit(labelled("dropped")), records.writer.submit(labelled("kept"))
    assert dropped.cancel()
    held.let_go()
    assert kept.result(20) == "kept"
    assert written(records) == {"kept"}


def test_closing_writes_what_waits_and_refuses_more(records: Records) -> None:
    writer = Writer(records.database)
    held = Held(writer)
    waiting = writer.submit(labelled("a"))
    closing = threading.Thread(target=writer.close)
    closing.start()
    held.let_go()
    closing.join()
    assert waiting.result(0) == "a"
    with pytest.raises(RecordsBusy):
        writer.submit(labelled("b"))
