"""Shadow runs: which candidate version judged the active one's pictures, and where the two disagreed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa

from service.records.database import Database
from service.records.rows import clean
from service.records.schema import shadow_results, shadows
from service.records.writer import Writer
from service.types import Decision

MOST = 10_000  # results kept of a run: the latest
_EVERY = 100  # results after which older ones are removed


@dataclass(frozen=True, slots=True)
class ShadowRun:
    """One candidate beside one active version. `stopped_at` None: it runs, over restarts too."""

    id: int
    model_name: str
    active_version: int
    candidate_version: int
    started_at: datetime
    who: str
    stopped_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """A verdict with its score and the reject threshold that it was held against. `score` None: not a finite number."""

    verdict: Decision
    score: float | None
    reject: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both versions said of one picture."""

    inspection_id: str
    at: datetime
    active: Judged
    candidate: Judged

    @property
    def agrees(self) -> bool:
        """Whether the verdicts are the same."""
        return self.active.verdict == self.candidate.verdict


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many pictures got which pair of verdicts (active, candidate)."""

    counts: dict[tuple[Decision, Decision], int]

    @property
    def compared(self) -> int:
        """Pictures that both have judged."""
        return sum(self.counts.values())

    @property
    def agreed(self) -> int:
        """Pictures of which both said the same."""
        return sum(count for (active, candidate), count in self.counts.items() if active == candidate)


class Shadows:
    """The shadow runs of all models. Any thread; what writes gives a future."""

    def __init__(self, database: Database, writer: Writer, now: Callable[[], datetime]) -> None:
        self._database, self._writer, self._now = database, writer, now

    def start(self, model_name: str, active: int, candidate: int, who: str) -> Future[ShadowRun]:
        """Note that a run begins. Raises RecordsBusy."""
        row = {
            "model_name": model_name,
            "active_version": active,
            "candidate_version": candidate,
            "started_at": self._now(),
            "who": clean(who),
        }

        def work(connection: sa.Connection) -> ShadowRun:
            run_id = connection.execute(sa.insert(shadows).returning(shadows.c.id), row).scalar_one()
            return ShadowRun(run_id, model_name, active, candidate, self._now(), who)

        return self._writer.submit(work)

    def stop(self, run_id: int, reason: str) -> Future[None]:
        """Note that a run has ended, and why. Raises RecordsBusy."""
        ended = {"stopped_at": self._now(), "reason": clean(reason)}

        def work(connection: sa.Connection) -> None:
            running = sa.update(shadows).where(shadows.c.id == run_id, shadows.c.stopped_at.is_(None))
            connection.execute(running.values(**ended))

        return self._writer.submit(work)

    def add(self, run_id: int, comparison: Comparison) -> Future[None]:
        """Keep what both said; of a long run the latest stay. Raises RecordsBusy."""
        active, candidate = asdict(comparison.active), asdict(comparison.candidate)
        row = {
            "shadow_id": run_id,
            "inspection_id": comparison.inspection_id,
            "at": comparison.at,
            **{f"active_{name}": value for name, value in active.items()},
            **{f"candidate_{name}": value for name, value in candidate.items()},
        }
        c = shadow_results.c

        def work(connection: sa.Connection) -> None:
            made = connection.execute(sa.insert(shadow_results).returning(c.id), row).scalar_one()
            if made % _EVERY == 0:
                of_run = sa.select(c.id).where(c.shadow_id == run_id).order_by(c.id.desc())
                oldest = connection.execute(of_run.offset(MOST).limit(1)).scalar_one_or_none()
                if oldest is not None:
                    connection.execute(sa.delete(shadow_results).where(c.shadow_id == run_id, c.id <= oldest))

        return self._writer.submit(work)

    def running(self) -> tuple[ShadowRun, ...]:
        """Runs that have not been stopped."""
        return self._read(sa.select(shadows).where(shadows.c.stopped_at.is_(None)).order_by(shadows.c.id))

    def last(self, model_name: str) -> ShadowRun | None:
        """A model's latest run."""
        query = sa.select(shadows).where(shadows.c.model_name == model_name).order_by(shadows.c.id.desc()).limit(1)
        return next(iter(self._read(query)), None)

    def agreement(self, run_id: int) -> Agreement:
        """Pairs of verdicts over all results that are kept."""
        c = shadow_results.c
        query = sa.select(c.active_verdict, c.candidate_verdict, sa.func.count()).where(c.shadow_id == run_id)
        with self._database.reading() as connection:
            rows = connection.execute(query.group_by(c.active_verdict, c.candidate_verdict)).all()
        return Agreement({(Decision(active), Decision(candidate)): count for active, candidate, count in rows})

    def comparisons(self, run_id: int, *, differing: bool, limit: int = 100) -> tuple[Comparison, ...]:
        """The latest results, newest first; `differing`: only where the verdicts are not the same."""
        c = shadow_results.c
        query = sa.select(shadow_results).where(c.shadow_id == run_id).order_by(c.id.desc()).limit(limit)
        if differing:
            query = query.where(c.active_verdict != c.candidate_verdict)
        with self._database.reading() as connection:
            return tuple(_comparison(row) for row in connection.execute(query).mappings())

    def _read(self, query: sa.Select[tuple[object, ...]]) -> tuple[ShadowRun, ...]:
        with self._database.reading() as connection:
            return tuple(ShadowRun(**row) for row in connection.execute(query).mappings())


def _comparison(row: sa.RowMapping) -> Comparison:
    active, candidate = (
        Judged(Decision(row[f"{side}_verdict"]), row[f"{side}_score"], row[f"{side}_reject"])
        for side in ("active", "candidate")
    )
    return Comparison(row["inspection_id"], row["at"], active, candidate)
