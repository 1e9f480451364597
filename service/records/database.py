"""The database: SQLite in a folder, or PostgreSQL by URL; brought to the present schema at open, under a lock."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url

from service.errors import RecordsFailure, SettingsError

log = logging.getLogger("flawscribe.records")
_BUSY_MS = 10_000
_MIGRATION_LOCK = 0x666C6177  # any number that is ours
_REVIEW_LOCK = _MIGRATION_LOCK + 1
_NOTICED_IN_SECONDS = {  # a database whose packets are dropped; TCP alone takes a quarter of an hour, or for ever
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


class DatabaseAway(SettingsError):
    """The database does not answer, or does not let us in; later it may."""


class Database:
    """Transactions for readers and writers. Connections are pooled; any thread may use it. Those of `writing_engine` are apart,
    so that no number of slow readers keeps a writer waiting."""

    def __init__(self, engine: sa.Engine, writing_engine: sa.Engine) -> None:
        self.engine = engine
        self.writing_engine = writing_engine
        self._closed = False

    @property
    def is_postgresql(self) -> bool:
        """Whether it is PostgreSQL, else SQLite."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads; on SQLite a snapshot that never waits for the writer. Raises RecordsFailure for
        whatever the database refuses within."""
        pool = self.engine.pool
        try:
            with self.engine.connect() as connection, connection.begin():
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise refusal(error) from error
        finally:
            if self._closed:  # meanwhile: a thread still reads while the service ends
                pool.dispose()

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that writes; durable when this returns. SQLite: takes the write lock at its begin."""
        with self.writing_engine.connect() as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Close every pooled connection; one that is in use, as soon as it comes back."""
        self._closed = True
        self.engine.dispose()
        self.writing_engine.dispose()


def refusal(error: sa.exc.SQLAlchemyError) -> RecordsFailure:
    """What callers are told of a database's error; its own words, which may hold data and addresses, go to the log."""
    log.error("records database: %s", getattr(error, "orig", None) or error)
    return RecordsFailure(f"the records database failed ({type(error).__name__}); its log line says more")


def upsert_for(dialect: str, table: sa.Table) -> Any:
    """An INSERT that knows ON CONFLICT, of `sqlite` or `postgresql`."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def insert_unless_there(connection: sa.Connection, table: sa.Table, row: dict[str, Any]) -> bool:
    """Insert a row unless one of the same key is there; whether it was inserted."""
    insert = upsert_for(connection.dialect.name, table).on_conflict_do_nothing()
    counting = {"preserve_rowcount": True}  # PostgreSQL's driver does not say it of an INSERT otherwise
    return bool(connection.execute(insert, row, execution_options=counting).rowcount > 0)


def one_review_at_a_time(connection: sa.Connection) -> None:
    """Until the transaction ends, other services' reviews wait: so their numbers rise in the order of commits, and who has
    seen one has seen all before it. SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_REVIEW_LOCK)))


def open_database(folder: Path, url: str | None = None) -> Database:
    """The database at `url`, or SQLite in `folder` (made when missing), with the present schema.

    Raises DatabaseAway when it cannot be reached, SettingsError when it is of a newer Flawscribe, or neither SQLite nor PostgreSQL.
    """
    engine, writing_engine = _postgresql(url) if url else _sqlite(folder)
    database = Database(engine, writing_engine)
    try:
        with database.writing() as connection:
            migrate(connection)
    except CommandError as error:
        database.close()
        raise SettingsError(f"records database: {error}; it was made by a newer Flawscribe") from error
    except sa.exc.SQLAlchemyError as error:
        database.close()
        shown = engine.url.set(query={}).render_as_string(hide_password=True)  # a password may be among those, too
        kind = DatabaseAway if isinstance(error, sa.exc.OperationalError) else SettingsError
        raise kind(f"records database {shown}: {getattr(error, 'orig', None) or error}") from error
    return database


def migrate(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the schema up to date, or to a `revision`, in the connection's transaction. One process at a time: the others wait."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")  # another's migration may take long
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _sqlite(folder: Path) -> tuple[sa.Engine, sa.Engine]:
    """For readers and for writers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"records folder {folder}: {error.strerror}") from error
    url = sa.URL.create("sqlite", database=str(folder / "records.sqlite"))
    engine, writing_engine = sa.create_engine(url), sa.create_engine(url, pool_size=1)
    sa.event.listen(engine, "begin", _begin_reading)
    sa.event.listen(writing_engine, "begin", _begin_writing)
    for each in (engine, writing_engine):
        sa.event.listen(each, "connect", _prepare_sqlite)
    return engine, writing_engine


def _prepare_sqlite(connection: Any, _: object) -> None:
    connection.isolation_level = None  # the driver's own BEGINs come too late; those below are sent in their place
    for pragma in (f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_reading(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: str) -> tuple[sa.Engine, sa.Engine]:
    """For readers and for writers."""
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise SettingsError(
            "FLAWSCRIBE_DATABASE_URL is not a URL such as postgresql+psycopg://user@host/name"
        ) from error
    if parsed.drivername not in {"postgresql", "postgres", "postgresql+psycopg"}:
        raise SettingsError(f"FLAWSCRIBE_DATABASE_URL must be postgresql+psycopg://…, not {parsed.drivername}://…")
    in_seconds = {name: value for name, value in _NOTICED_IN_SECONDS.items() if name not in parsed.query}
    options: dict[str, Any] = {
        "pool_pre_ping": True,
        "connect_args": {
            "connect_timeout": 10,
            # in another zone than UTC a moment at either end of the calendar could be written and never be read again
            "options": f"-c timezone=UTC -c synchronous_commit=on -c lock_timeout={_BUSY_MS} -c statement_timeout=60000",
            **in_seconds,
        },
    }
    url_of_driver = parsed.set(drivername="postgresql+psycopg")
    try:
        return sa.create_engine(url_of_driver, **options), sa.create_engine(url_of_driver, pool_size=1, **options)
    except ModuleNotFoundError as error:
        raise SettingsError("PostgreSQL needs psycopg: pip install 'flawscribe[postgres]'") from error
