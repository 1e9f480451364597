from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.records.store import Records, RecordsOptions
from tests.records_postgres import NoPostgres, running_postgres
from tests.unit.records.making import Clock


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a PostgreSQL server's database."""
    pytest.importorskip("psycopg", reason="psycopg (extra postgres) is not installed")
    try:
        with running_postgres() as url:
            yield url
    except NoPostgres as reason:
        pytest.skip(str(reason))


@pytest.fixture
def postgres_url(postgres_server: str) -> str:
    """The URL of the server's database, emptied."""
    engine = sa.create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    engine.dispose()
    return postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite, else the URL of an empty database: a test runs on both."""
    return None if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(database_url: str | None, tmp_path: Path, clock: Clock) -> Iterator[Callable[[], Records]]:
    """Opens the same records again and again, each time as another process would."""
    several: list[Records] = []

    def another() -> Records:
        several.append(Records(RecordsOptions(tmp_path, database_url), now=clock))
        return several[-1]

    yield another
    for records in several:
        records.close()


@pytest.fixture
def records(opened: Callable[[], Records]) -> Records:
    return opened()
