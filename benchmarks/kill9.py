"""Kill -9 under load, again and again: no acknowledged record, picture or review is lost.

    python -m benchmarks.kill9 --rounds 200 --json benchmarks/results/kill9.json

A child process records as fast as it can from several threads and prints what was acknowledged; the parent kills it at a random
moment, opens the records as a restarted service would, and looks for all of it. The same records go through every round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from benchmarks.machine import describe
from service.errors import NoSuchRecord, RecordsBusy
from service.records.entities import Record, Review
from service.records.pictures import Pictures
from service.records.schema import cases, inspections, reviews
from service.records.store import Records, RecordsOptions
from service.types import Decision, ModelIdentity, Region, Thresholds, Timings

_THREADS = 8
_REGION = Region((10, 20, 12, 8), 80, 0.01, 0.4, (16.25, 24.5), "structural")


@dataclass(frozen=True, slots=True)
class Result:
    """What was acknowledged over all rounds, and what of it was not there afterwards. `half_written`: reviews without their
    case, or the other way round."""

    rounds: int
    acknowledged: int
    reviews: int
    lost: int
    lost_pictures: int
    lost_reviews: int
    half_written: int
    integrity: str
    median_records_per_second: float


def record(number: str, sha256: str) -> Record:
    """A flawed inspection with its picture."""
    return Record(
        id=number,
        request_id=number,
        created_at=datetime.now(UTC),
        model=ModelIdentity("polka-dot", 1, "int8", "cpu"),
        teacher_sha256="e" * 64,
        product="polka-dot",
        image_sha256=sha256,
        width=200,
        height=150,
        decision=Decision.NOT_OK,
        score=0.4,
        thresholds=Thresholds(0.2, 0.3),
        p_value=0.01,
        reasons=(),
        regions=(_REGION,),
        timings=Timings(1.0, 2.0, 3.0, 4.0, 5.0),
        picture_stored=True,
        descriptors=np.ones((1, 384), np.float32),
    )


def write_for_ever(folder: Path, url: str | None) -> None:
    """The child: record, keep pictures, review every fourth; print each id once it is acknowledged."""
    records = Records(RecordsOptions(folder, url))

    def client() -> None:
        while True:
            number = uuid.uuid4().hex
            data = number.encode() * 50
            try:
                records.save([record(number, records.keep_picture(data))]).result()
                print(f"R {number}\n", end="", flush=True)  # in one write: threads share the pipe
                if number < "4":
                    records.review(number, Review("right", "Kim", "hole")).result()
                    print(f"V {number}\n", end="", flush=True)
            except RecordsBusy as busy:
                time.sleep(busy.retry_after or 0.01)

    print("ready", flush=True)
    for _ in range(_THREADS):
        threading.Thread(target=client).start()


def kill_one(folder: Path, url: str | None, seconds: float) -> tuple[list[str], list[str]]:
    """Start a child and kill it `seconds` after its first acknowledgement; the records and reviews acknowledged."""
    words = [sys.executable, "-m", "benchmarks.kill9", "--write", str(folder)] + (["--url", url] if url else [])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline(), child.stdout.readline()]
        if lines[0] != "ready\n":
            raise RuntimeError(f"the writing process did not start: {lines}")
        timer = threading.Timer(seconds, child.send_signal, (signal.SIGKILL,))
        timer.start()
        lines += child.stdout.readlines()
        timer.join()
    if child.returncode != -signal.SIGKILL:
        raise RuntimeError("the writing process ended by itself")
    whole = [line.split() for line in lines[1:] if line.endswith("\n")]  # the last line may be cut short
    return [item for kind, item in whole if kind == "R"], [item for kind, item in whole if kind == "V"]


def missing(folder: Path, url: str | None, written: list[str], said: list[str]) -> dict[str, int]:
    """How much of what was acknowledged is not there, or only in part, once the records are opened again."""
    records = Records(RecordsOptions(folder, url))
    try:
        with records.database.reading() as connection:
            there = {
                row.id: row.image_sha256
                for row in connection.execute(sa.select(inspections.c.id, inspections.c.image_sha256))
            }
            reviewed = set(connection.execute(sa.select(reviews.c.inspection_id)).scalars())
            cased = set(connection.execute(sa.select(cases.c.inspection_id)).scalars())
        return {
            "lost": len(set(written) - there.keys()),
            "lost_pictures": sum(not _whole(records.pictures, there[item]) for item in written if item in there),
            "lost_reviews": len(set(said) - reviewed),
            "half_written": len(reviewed ^ cased),
        }
    finally:
        records.close()


def _whole(pictures: Pictures, sha256: str) -> bool:
    try:
        return hashlib.sha256(pictures.get(sha256)).hexdigest() == sha256
    except NoSuchRecord:
        return False


def _integrity(folder: Path, url: str | None) -> str:
    if url:
        return "not checked on PostgreSQL"
    records = Records(RecordsOptions(folder))
    with records.database.reading() as connection:
        word = connection.exec_driver_sql("PRAGMA integrity_check").scalar_one()
        broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    records.close()
    return str(word) if not broken else f"{len(broken)} broken references"


def run(folder: Path, rounds: int, url: str | None = None, seed: int = 1) -> Result:
    """So many rounds in one folder."""
    chance = random.Random(seed)
    totals = dict.fromkeys(("lost", "lost_pictures", "lost_reviews", "half_written"), 0)
    acknowledged = reviewed = 0
    rates = []
    for _ in range(rounds):
        seconds = chance.uniform(0.02, 0.6)
        written, said = kill_one(folder, url, seconds)
        for name, count in missing(folder, url, written, said).items():
            totals[name] += count
        acknowledged += len(written)
        reviewed += len(said)
        rates.append(len(written) / seconds)
    rate = round(float(np.median(rates)), 1)
    return Result(
        rounds, acknowledged, reviewed, **totals, integrity=_integrity(folder, url), median_records_per_second=rate
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--url", help="PostgreSQL instead of SQLite; its tables are filled")
    parser.add_argument("--folder", type=Path, help="where to record; a temporary folder when not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_for_ever(given.write, given.url)
        return
    with tempfile.TemporaryDirectory() as temporary:
        result = run(given.folder or Path(temporary), given.rounds, given.url)
    told: dict[str, Any] = {
        "machine": describe(),
        "database": "postgresql" if given.url else "sqlite",
        **asdict(result),
    }
    print(json.dumps(told, indent=2))
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
