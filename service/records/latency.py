"""How long a model's latest pictures took, from the times that their records hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from service.records.database import Database
from service.records.schema import inspections

_LATEST = 500  # pictures


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from decoding to verdict, waiting included, of the latest `pictures`; None without any. `over_budget`: the
    share of pictures that took longer than their windows' budget."""

    pictures: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    p50_ms_per_window: float | None = None
    over_budget: float | None = None


def read_latency(
    database: Database, model: str, version: int, windows: Callable[[int, int], int], budget_ms: float
) -> Latency:
    """Of one version of a model. `windows`: how many windows a picture of (width, height) has; `budget_ms`: of one."""
    c = inspections.c
    query = sa.select(c.timings, c.width, c.height).where(c.model_name == model, c.model_version == version)
    with database.reading() as connection:
        rows = connection.execute(query.order_by(c.created_at.desc(), c.id).limit(_LATEST)).all()
    if not rows:
        return Latency(0)
    total = np.array([sum(row.timings.values()) for row in rows])
    counts = np.array([windows(row.width, row.height) for row in rows])
    return Latency(
        pictures=len(rows),
        p50_ms=float(np.quantile(total, 0.5)),
        p99_ms=float(np.quantile(total, 0.99)),
        p50_ms_per_window=float(np.quantile(total / counts, 0.5)),
        over_budget=float((total > budget_ms * counts).mean()),
    )
