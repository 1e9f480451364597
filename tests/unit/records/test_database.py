from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from service.errors import RecordsFailure, SettingsError
from service.records.database import DatabaseAway, migrate, open_database
from service.records.inspections import Inspections
from service.records.rows import inspection_row
from service.records.schema import audit, idempotency, inspections, metadata, reviews
from service.records.store import Records, RecordsOptions
from tests.unit.records.making import START, record


def test_migrations_lead_to_the_schema(records: Records) -> None:
    with records.database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_sqlite_is_durable_and_keeps_its_references(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    for open_transaction in (database.reading, database.writing):
        with open_transaction() as connection:
            found = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
                for name in ("journal_mode", "synchronous", "foreign_keys")
            }
            assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


def _open(folder: Path, url: str | None) -> None:
    open_database(folder, url).close()


def test_processes_that_open_at_once_make_one_schema(tmp_path: Path, database_url: str | None) -> None:
    spawned = multiprocessing.get_context("spawn")
    several = [spawned.Process(target=_open, args=(tmp_path, database_url)) for _ in range(3)]
    for process in several:
        process.start()
    for process in several:
        process.join()
    assert [process.exitcode for process in several] == [0, 0, 0]


def test_a_database_of_a_newer_version_is_refused(tmp_path: Path, database_url: str | None) -> None:
    database = open_database(tmp_path, database_url)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(SettingsError, match="newer"):
        open_database(tmp_path, database_url)


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("mysql://somewhere/db", "must be postgresql"),
        ("no url", "not a URL"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/db", "127.0.0.1"),
        ("postgresql+psycopg://127.0.0.1:1/db?user=someone&password=secret", "127.0.0.1"),
    ],
)
def test_an_unusable_url_is_refused_without_its_password(tmp_path: Path, url: str, word: str) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(SettingsError, match=word) as refusal:
        open_database(tmp_path, url)
    assert "secret" not in str(refusal.value)
    assert isinstance(refusal.value, DatabaseAway) == ("127.0.0.1" in url)  # which may come up later


@pytest.fixture
def far_from_greenwich(postgres_url: str) -> Iterator[str]:
    """The URL of a database whose server is in New York."""
    engine = sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER DATABASE postgres SET timezone TO 'America/New_York'")
        yield postgres_url
        connection.exec_driver_sql("ALTER DATABASE postgres RESET timezone")
    engine.dispose()


def test_the_ends_of_the_calendar_are_read_again_wherever_the_server_is(
    far_from_greenwich: str, tmp_path: Path
) -> None:
    records = Records(RecordsOptions(tmp_path, far_from_greenwich))
    try:
        for number, moment in enumerate((datetime.min, datetime.max)):
            seen = record(number, captured_at=moment.replace(tzinfo=UTC))
            records.save([seen]).result()
            assert records.inspections.get(seen.id).captured_at == seen.captured_at
    finally:
        records.close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="records folder"):
        open_database(tmp_path / "file" / "records")


@pytest.mark.parametrize("table", [audit, reviews], ids=str)
@pytest.mark.parametrize("statement", ["UPDATE {} SET who = 'x'", "DELETE FROM {}"])
def test_history_cannot_be_changed(records: Records, table: sa.Table, statement: str) -> None:
    row: dict[str, object] = {
        "inspection_id": "a",
        "at": START,
        "verdict": "right",
        "decided": "ok",
        "model_version": 1,
        "region_count": 0,
    }
    limits = {"review_threshold": 0.1, "reject_threshold": 0.2}
    entry = row | limits if table is reviews else {"at": START, "detail": {}}
    with records.database.writing() as connection:
        connection.execute(sa.insert(table), entry)
    with pytest.raises(sa.exc.DatabaseError, match="append-only"), records.database.writing() as connection:
        connection.exec_driver_sql(statement.format(table.name))
    with records.database.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() == 1


def test_a_stored_answer_keeps_its_place_when_headers_are_added(tmp_path: Path) -> None:
    """Answers of version 0003 said where the rest would be in a column of its own."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'records.sqlite'}")
    with engine.begin() as connection:
        migrate(connection, "0003")
        columns = "key, body_sha256, created_at, expires_at, owner, lease_until, status, media_type, answer, location"
        for key, location in (("later", "/inspections/1"), ("plain", "")):
            row = f"'{key}', '', 0, 0, '', 0, 202, 'application/json', x'7b7d', '{location}'"
            connection.exec_driver_sql(f"INSERT INTO idempotency ({columns}) VALUES ({row})")
    with engine.begin() as connection:
        migrate(connection)
        rows = connection.execute(sa.select(idempotency.c.key, idempotency.c.headers)).all()
    engine.dispose()
    assert dict(map(tuple, rows)) == {
        "later": {"location": "/inspections/1", "preference-applied": "respond-async"},
        "plain": {},
    }


def test_inspections_of_before_the_threshold_method_was_kept_are_read(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'records.sqlite'}")
    with engine.begin() as connection:
        migrate(connection, "0004")
        row = inspection_row(record(1))
        del row["threshold_method"]
        written = {name: inspections.c[name].type for name in row}
        connection.execute(sa.insert(sa.table("inspections", *map(sa.column, row, written.values()))), row)
    engine.dispose()
    database = open_database(tmp_path)
    assert Inspections(database).get(f"{1:032x}").threshold_method == ""
    database.close()


def test_a_connection_in_use_while_closing_is_closed_when_it_comes_back(tmp_path: Path, postgres_url: str) -> None:
    database = open_database(tmp_path, postgres_url)
    with database.reading() as connection:
        in_use: Any = connection.connection.driver_connection
        database.close()
    assert in_use.closed


@pytest.mark.parametrize(("query", "idle"), [("", "5"), ("?keepalives_idle=30", "30")])
def test_a_database_whose_packets_are_dropped_is_noticed(
    tmp_path: Path, postgres_url: str, query: str, idle: str
) -> None:
    database = open_database(tmp_path, postgres_url + query)
    for open_transaction in (database.reading, database.writing):
        with open_transaction() as connection:
            driver: Any = connection.connection.driver_connection
            told = driver.info.get_parameters()
            assert (told["keepalives_idle"], told["tcp_user_timeout"]) == (idle, "15000")
            assert (told["keepalives_interval"], told["keepalives_count"]) == ("2", "3")
    database.close()


def test_closing_closes_the_connections_of_writers_too(tmp_path: Path, database_url: str | None) -> None:
    database = open_database(tmp_path, database_url)
    with database.reading():
        pass
    database.close()
    assert [engine.pool.checkedin() for engine in (database.engine, database.writing_engine)] == [0, 0]


def test_records_that_cannot_be_read_when_opened_leave_nothing_behind(
    database_url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening is tried again every few seconds: a thread or connection a try would use a server up."""
    databases = []

    def away(database: Any) -> Any:
        databases.append(database)
        raise RecordsFailure("server closed the connection unexpectedly")

    monkeypatch.setattr("service.records.store.read_accepted", away)
    threads = set(threading.enumerate())
    with pytest.raises(RecordsFailure):
        Records(RecordsOptions(tmp_path, database_url))
    assert set(threading.enumerate()) <= threads
    assert [each.writing_engine.pool.checkedin() for each in databases] == [0]
