from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.records.store import Records, RecordsOptions
from tests.unit.records.making import Clock


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
