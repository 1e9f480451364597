"""Master parts: pictures of parts whose verdict is known, by which a model is checked every day; and those checks."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from service.errors import Conflict, NoSuchRecord
from service.records.database import Database
from service.records.pictures import Pictures
from service.records.rows import clean
from service.records.schema import checks, masters
from service.records.writer import Writer
from service.types import Decision, ModelIdentity

MOST = 50  # a model


@dataclass(frozen=True, slots=True)
class Master:
    """A master part's picture and the verdict that it must get."""

    id: str
    model_name: str
    added_at: datetime
    who: str
    name: str
    expected: Decision
    image_sha256: str


@dataclass(frozen=True, slots=True)
class MasterResult:
    """What a master part got. `first_score`: what it got in the first check of this model version and form; `error`: why its
    picture could not be judged."""

    master_id: str
    name: str
    expected: Decision
    verdict: Decision | None
    score: float | None
    first_score: float | None = None
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the verdict is the expected one."""
        return self.verdict is not None and self.verdict == self.expected

    @property
    def change(self) -> float | None:
        """How far the score has moved since the first check."""
        return None if self.score is None or self.first_score is None else self.score - self.first_score


@dataclass(frozen=True, slots=True)
class Check:
    """A run over all master parts of a model. `passed`: every one got its verdict."""

    id: int
    model: ModelIdentity
    at: datetime
    who: str
    passed: bool
    results: tuple[MasterResult, ...]


class Masters:
    """The master parts and checks of all models. Any thread; what writes gives a future or blocks, as it says."""

    def __init__(self, database: Database, writer: Writer, pictures: Pictures, now: Callable[[], datetime]) -> None:
        self._database, self._writer, self._pictures, self._now = database, writer, pictures, now

    def add(
        self, model_name: str, pictures: Sequence[tuple[str, bytes]], expected: Decision, who: str
    ) -> Future[tuple[Master, ...]]:
        """Keep pictures, each with its name, as master parts: all or none. They are on disk when this returns. The future may hold
        Conflict, which says which of them is a master part already or one too many. Raises RecordsBusy, RecordsFailure."""
        added = self._kept(model_name, pictures, expected, who)

        def work(connection: sa.Connection) -> tuple[Master, ...]:
            _require_new(connection, model_name, added)
            connection.execute(sa.insert(masters), [asdict(each) for each in added])
            return added

        return self._writer.submit(work)

    def _kept(
        self, model_name: str, pictures: Sequence[tuple[str, bytes]], expected: Decision, who: str
    ) -> tuple[Master, ...]:
        at, ids = self._now(), sorted(uuid.uuid4().hex for _ in pictures)  # of one moment, and listed in their order
        added = []
        for master_id, (name, data) in zip(ids, pictures, strict=True):
            sha256 = hashlib.sha256(data).hexdigest()
            self._pictures.put(sha256, data)
            added.append(Master(master_id, model_name, at, clean(who), clean(name), expected, sha256))
        return tuple(added)

    def all(self, model_name: str) -> tuple[Master, ...]:
        """A model's master parts, oldest first."""
        query = sa.select(masters).where(masters.c.model_name == model_name).order_by(masters.c.added_at, masters.c.id)
        with self._database.reading() as connection:
            return tuple(_master(row) for row in connection.execute(query).mappings())

    def picture(self, model_name: str, master_id: str) -> bytes:
        """A master part's picture as it was sent. Raises NoSuchRecord."""
        query = sa.select(masters.c.image_sha256).where(masters.c.model_name == model_name, masters.c.id == master_id)
        with self._database.reading() as connection:
            sha256 = connection.execute(query).scalar_one_or_none()
        if sha256 is None:
            raise NoSuchRecord(f"model {model_name} has no master part {master_id}")
        return self._pictures.get(sha256)

    def remove(self, model_name: str, master_id: str) -> Future[None]:
        """Take a master part away; past checks keep its results. The future may hold NoSuchRecord. Raises RecordsBusy."""

        def work(connection: sa.Connection) -> None:
            its = sa.delete(masters).where(masters.c.model_name == model_name, masters.c.id == master_id)
            if not connection.execute(its).rowcount:
                raise NoSuchRecord(f"model {model_name} has no master part {master_id}")

        return self._writer.submit(work)

    def save_check(self, model: ModelIdentity, results: Sequence[MasterResult], who: str) -> Future[Check]:
        """Write a check down, each result with the first score that its part got from this version and form."""
        at = self._now()

        def work(connection: sa.Connection) -> Check:
            first = _first_scores(connection, model)
            told = tuple(_with_first(each, first.get(each.master_id, each.score)) for each in results)
            passed = all(each.passed for each in told)
            row = {
                "model_name": model.name,
                "model_version": model.version,
                "precision": model.precision,
                "at": at,
                "who": clean(who),
                "passed": passed,
                "results": [asdict(each) for each in told],
            }
            check_id = connection.execute(sa.insert(checks).returning(checks.c.id), row).scalar_one()
            return Check(check_id, model, at, who, passed, told)

        return self._writer.submit(work)

    def checks(self, model_name: str, limit: int = 30) -> tuple[Check, ...]:
        """A model's last checks, newest first."""
        query = sa.select(checks).where(checks.c.model_name == model_name).order_by(checks.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return tuple(_check(row) for row in connection.execute(query).mappings())


def _require_new(connection: sa.Connection, model_name: str, added: Sequence[Master]) -> None:
    """Raises Conflict for the first of them that is a master part already, comes twice, or finds no room."""
    mine = sa.select(masters.c.image_sha256).where(masters.c.model_name == model_name)
    there = list(connection.execute(mine).scalars())
    fresh: set[str] = set()
    for number, each in enumerate(added, 1):
        told = f"picture {number} ({each.name})"
        if each.image_sha256 in there:
            raise Conflict(f"{told} is a master part of {model_name} already; none was added")
        if each.image_sha256 in fresh:
            raise Conflict(f"{told} is one of the pictures before it; none was added")
        if len(there) + len(fresh) >= MOST:
            raise Conflict(
                f"{told} is one too many: {model_name} has {len(there)} master parts; at most {MOST} are kept; none was added"
            )
        fresh.add(each.image_sha256)


def _first_scores(connection: sa.Connection, model: ModelIdentity) -> dict[str, float]:
    """By master part, from the last check of the same version and form: each check carries the first scores on."""
    c = checks.c
    same = (c.model_name == model.name, c.model_version == model.version, c.precision == model.precision)
    results = connection.execute(sa.select(c.results).where(*same).order_by(c.id.desc()).limit(1)).scalar_one_or_none()
    return {each["master_id"]: each["first_score"] for each in results or () if each["first_score"] is not None}


def _with_first(result: MasterResult, first: float | None) -> MasterResult:
    return MasterResult(**{**asdict(result), "first_score": first})


def _master(row: sa.RowMapping) -> Master:
    return Master(**{**row, "expected": Decision(row["expected"])})


def _check(row: sa.RowMapping) -> Check:
    results = tuple(
        MasterResult(
            **{
                **each,
                "expected": Decision(each["expected"]),
                "verdict": None if each["verdict"] is None else Decision(each["verdict"]),
            }
        )
        for each in row["results"]
    )
    model = ModelIdentity(row["model_name"], row["model_version"], row["precision"], "")
    return Check(row["id"], model, row["at"], row["who"], row["passed"], results)
