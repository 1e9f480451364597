"""Would PostgreSQL's pgvector recall reviewed flaws better than the memory's own search? Times, how many of the true nearest it
finds, and what a refit of the metric costs.

Cases have the length of the service's descriptors and lie as real ones do: labels apart, a few directions that vary much and many
that vary little. Nine tenths are of one product, the others of ten rare ones. `exact` scans all of a product, `hnsw` asks the index
as it comes (m 16, ef_construction 64) at several ef_search; `found` is the share of the five true nearest, `short` the share of
answers with fewer than five cases. `memory` is `Memory.recall`, which also votes; `search` only its search.
Each search runs on one thread; `cpu_ms` is the processor time a query took (the server's backend's, or this process's), which other
work on the machine does not stretch. A refit turns every vector: in the database `update_cpu_s` (all rows, the index dropped) and
`build_cpu_s` (the index anew), by each service for itself; in memory
`refit_cpu_s`, with the calibration.

Any PostgreSQL with the extension does (`--url`); without one the package pgserver, which brings its own, is started:

    pip install --target runs/pgserver pgserver
    OMP_NUM_THREADS=1 PYTHONPATH=runs/pgserver python -m benchmarks.pgvector --json benchmarks/results/pgvector.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from benchmarks.machine import describe, tell
from service.bench.timing import median_ms, p99_ms
from service.captions.descriptor import LENGTH, MAKING
from service.captions.memory import Memory
from service.captions.neighbours import bank, vote
from service.records.entities import StoredCase

Floats = NDArray[np.float32]
SIZE = LENGTH - 1
LABELS, NEAREST = 20, 5
COMMON, RARE = "plate", "rare-0"
_NEEDED = "create extension if not exists vector"
_ASK = "select id from cases where product = %s order by v <-> %s::vector limit 5"
_INDEX = "create index cases_near on cases using hnsw (v vector_l2_ops)"


@contextmanager
def server(url: str | None) -> Iterator[str]:
    """The URL of a PostgreSQL with the extension: the one given, or one of its own that ends with the block."""
    if url is not None:
        yield url
        return
    import pgserver  # type: ignore[import-not-found]  # noqa: PLC0415 - only this benchmark needs it

    with tempfile.TemporaryDirectory() as folder:
        mine = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield mine.get_uri()
        finally:
            mine.cleanup()


def cases(count: int, rng: np.random.Generator) -> tuple[Floats, NDArray[np.intp]]:
    """Vectors [count,SIZE] and their label indices."""
    widths = (np.arange(1, SIZE + 1) ** -0.5).astype(np.float32)
    centres = 2 * widths * np.random.default_rng(0).standard_normal((LABELS, SIZE), np.float32)
    labels = rng.integers(0, LABELS, count)
    return centres[labels] + widths * rng.standard_normal((count, SIZE), np.float32), labels


def text(vector: Floats) -> str:
    return "[" + ",".join(f"{value:.7g}" for value in vector) + "]"


def backend_seconds(process: int) -> float:
    """Processor time of a process of this machine so far."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e9


def timed(
    ask: Callable[[Floats], Sequence[int]],
    queries: Floats,
    truth: Sequence[set[int]] | None,
    worked: Callable[[], float] = time.process_time,
) -> dict[str, Any]:
    """Milliseconds over the queries, after one that warms up; with `truth` also what was found of it."""
    ask(queries[0])
    seconds, answers, before = [], [], worked()
    for query in queries:
        began = time.perf_counter()
        answers.append(ask(query))
        seconds.append(time.perf_counter() - began)
    row: dict[str, Any] = {"p50_ms": round(median_ms(seconds), 2), "p99_ms": round(p99_ms(seconds), 2)}
    row["cpu_ms"] = round(1000 * (worked() - before) / len(queries), 2)
    if truth is not None:
        found = [len(true & set(told)) / len(true) for true, told in zip(truth, answers, strict=True)]
        row["found"] = round(float(np.mean(found)), 4)
        row["short"] = round(float(np.mean([len(told) < NEAREST for told in answers])), 4)
    return row


def ours(rows: Floats, labels: NDArray[np.intp], queries: Floats) -> dict[str, Any]:
    """The memory's own search, and the whole recall."""
    known = bank(rows, labels, LABELS)
    stored = [
        StoredCase(
            str(n), str(n), COMMON, "", f"type {label}", "", "", np.concatenate(([MAKING], row)).astype(np.float32)
        )
        for n, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]
    before = time.process_time()
    memory = Memory(stored)
    fitting = time.process_time() - before

    def recall(query: Floats) -> Sequence[int]:
        memory.recall(COMMON, "", np.concatenate(([MAKING], query)).astype(np.float32))
        return ()

    return {
        "search": timed(lambda query: [int(n) for n in vote(known, query).nearest], queries, None),
        "memory": timed(recall, queries, None),
        "refit_cpu_s": round(fitting, 1),
        "mb": round(2 * rows.nbytes / 1e6),  # as they came, and turned
    }


def nearest(rows: Floats, ids: NDArray[np.intp], queries: Floats) -> list[set[int]]:
    return [{int(n) for n in ids[np.argsort(((rows - query) ** 2).sum(axis=1))[:NEAREST]]} for query in queries]


def fill(connection: psycopg.Connection[Any], products: Sequence[str], rows: Floats) -> None:
    connection.execute("drop table if exists cases")
    connection.execute(f"create table cases (id integer primary key, product text, v vector({SIZE}))")
    with connection.cursor().copy("copy cases from stdin") as copy:
        for number, (product, row) in enumerate(zip(products, rows, strict=True)):
            copy.write_row((number, product, text(row)))
    connection.execute("create index cases_product on cases (product)")
    connection.execute("vacuum analyze cases")


def worked_on(connection: psycopg.Connection[Any], statement: str) -> float:
    """Seconds of the backend's processor time."""
    before = backend_seconds(connection.info.backend_pid)
    connection.execute(statement)
    return round(backend_seconds(connection.info.backend_pid) - before, 1)


def theirs(url: str, rows: Floats, products: Sequence[str], queries: Floats) -> dict[str, Any]:
    """pgvector: exact, then by its index, for the common product and a rare one."""
    names = np.array(products)
    truth = {name: nearest(rows[names == name], np.flatnonzero(names == name), queries) for name in (COMMON, RARE)}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_NEEDED)
        connection.execute("set maintenance_work_mem = '1GB'")
        connection.execute("set max_parallel_workers_per_gather = 0")
        connection.execute("set max_parallel_maintenance_workers = 0")
        told: dict[str, Any] = {
            "postgresql": connection.info.parameter_status("server_version"),
            "pgvector": connection.execute("select extversion from pg_extension where extname = 'vector'").fetchone()[
                0
            ],  # type: ignore[index]
        }
        fill(connection, products, rows)

        def asked(name: str) -> dict[str, Any]:
            def ask(query: Floats) -> Sequence[int]:
                return [row[0] for row in connection.execute(_ASK, (name, text(query)))]

            backend = connection.info.backend_pid
            return timed(ask, queries, truth[name], lambda: backend_seconds(backend))

        told["exact"] = {name: asked(name) for name in (COMMON, RARE)}
        told["build_cpu_s"] = worked_on(connection, _INDEX)
        size = connection.execute("select pg_relation_size('cases_near')").fetchone()
        told["index_mb"] = round(size[0] / 1e6) if size is not None else None
        for width in (40, 200):
            connection.execute(f"set hnsw.ef_search = {width}")
            told[f"hnsw_{width}"] = {name: asked(name) for name in (COMMON, RARE)}
        connection.execute("drop index cases_near")
        told["update_cpu_s"] = worked_on(connection, "update cases set v = v + v")
        connection.execute("drop table cases")
    return told


def main() -> None:
    """Print the figures; with --json, write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--url", help="of a PostgreSQL on this machine that has the extension; its table `cases` is dropped"
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    rows, labels = cases(options.cases, rng)
    queries, _ = cases(options.queries, rng)
    rare = rng.random(options.cases) < 0.1
    products = [f"rare-{n % 10}" if seldom else COMMON for n, seldom in enumerate(rare)]
    with server(options.url) as url:
        told = theirs(url, rows, products, queries)
    result = {
        "machine": describe(),
        "load": round(os.getloadavg()[0], 1),  # above the cores: other work slowed both
        "cases": options.cases,
        "numbers_a_case": SIZE,
        "numpy": ours(rows, labels, queries),
        "pgvector": told,
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
