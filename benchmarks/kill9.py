"""Kill -9 under load, again and again: no acknowledged record, picture or review is lost.

    python -m benchmarks.kill9 --rounds 200 --json benchmarks/results/kill9.json
    python -m benchmarks.kill9 --rounds 30 --service --json benchmarks/results/kill9_service.json

A child process records as fast as it can from several threads and prints what was acknowledged; the parent kills it at a random
moment, opens the records as a restarted service would, and looks for all of it. The same records go through every round.

With --service the child is `flawscribe serve`: clients inspect with `store=image` and review over HTTP as fast as they can, what a
whole answer says is acknowledged, and the service that is started next on the same records is asked for all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa

from benchmarks.machine import describe
from service.bench.server import serving
from service.errors import NoSuchRecord, RecordsBusy
from service.records.entities import Record, Review
from service.records.pictures import Pictures
from service.records.schema import cases, inspections, reviews
from service.records.store import Records, RecordsOptions
from service.types import Decision, ModelIdentity, Region, Thresholds, Timings
from tests.networks import grey_picture, png, write_bundle

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


@dataclass(slots=True)
class Acknowledged:
    """What clients of one service were told: of each inspection the picture, and which were reviewed. `enough` is set when
    there are `wanted` inspections: a slow machine gets as far as a fast one."""

    wanted: int = 0
    inspections: dict[str, bytes] = field(default_factory=dict)
    reviewed: list[str] = field(default_factory=list)
    enough: threading.Event = field(default_factory=threading.Event)


def press(url: str, numbers: Iterator[int], told: Acknowledged) -> None:
    """A client: inspect parts no two of which look alike, and review every third, until the service is gone."""
    with httpx.Client(base_url=url, timeout=60) as client, contextlib.suppress(httpx.TransportError):
        while True:
            number = next(numbers)
            picture = flawed(number)
            path = ("/detect", "/classify")[number % 2]
            answer = client.post(f"{path}?store=image", content=picture, headers={"content-type": "image/png"})
            if answer.is_error:  # more at once than it takes
                time.sleep(float(answer.headers["retry-after"]))
                continue
            (result,) = answer.json()["results"]
            if not result["stored"]:
                raise RuntimeError("asked to store, it answered that it did not")
            told.inspections[result["id"]] = picture
            if len(told.inspections) >= told.wanted:
                told.enough.set()
            if number % 3 == 0:
                said = {"verdict": "right", "label": "hole", "who": "Kim"}
                if client.post(f"/inspections/{result['id']}/review", json=said).status_code == 201:
                    told.reviewed.append(result["id"])


def flawed(number: int) -> bytes:
    """A plate with a dark hole, as PNG; the number is in its first pixels."""
    picture = grey_picture()
    picture[90:130, 60:100] = 0
    picture[0, :4, 0] = list(number.to_bytes(4, "little"))
    return png(picture)


def kill_service(url: str, pid: int, numbers: Iterator[int], wanted: int, seconds: float) -> tuple[Acknowledged, float]:
    """Press the service at `url` and kill it `seconds` after so many acknowledgements; what was told, and how many a second."""
    told, started = Acknowledged(wanted), time.monotonic()
    clients = [threading.Thread(target=press, args=(url, numbers, told)) for _ in range(_THREADS)]
    for client in clients:
        client.start()
    if not told.enough.wait(60):
        raise RuntimeError(f"the service acknowledged {len(told.inspections)} of {wanted} within a minute")
    time.sleep(seconds)
    if not all(client.is_alive() for client in clients):
        raise RuntimeError("the service ended, or failed a client, before it was killed")
    os.kill(pid, signal.SIGKILL)
    took = time.monotonic() - started
    for client in clients:
        client.join()
    return told, len(told.inspections) / took


def missing_over_http(url: str, told: Acknowledged) -> dict[str, int]:
    """How much of what was acknowledged the next service does not show."""
    lost = dict.fromkeys(("lost", "lost_pictures", "lost_reviews"), 0)
    with httpx.Client(base_url=url, timeout=60) as client:
        for number, picture in told.inspections.items():
            record = client.get(f"/inspections/{number}")
            lost["lost"] += record.status_code != 200
            lost["lost_pictures"] += client.get(f"/inspections/{number}/image").content != picture
            if number in told.reviewed:
                lost["lost_reviews"] += record.status_code != 200 or not record.json()["reviews"]
    return lost


def run_service(folder: Path, rounds: int, url: str | None = None, seed: int = 1) -> Result:
    """So many rounds of a whole service, around a small model, in one folder."""
    chance, numbers = random.Random(seed), iter(itertools.count())
    write_bundle(folder / "models", "probe", 1)
    settings: dict[str, object] = {"records_dir": folder / "records", "products_dir": folder}
    if url:
        settings["database_url"] = url
    totals = dict.fromkeys(("lost", "lost_pictures", "lost_reviews"), 0)
    acknowledged, reviewed, rates = [], [], []
    told = Acknowledged()
    for left in range(rounds, -1, -1):
        with serving(folder / "models", **settings) as server:
            for name, count in missing_over_http(server.url, told).items():
                totals[name] += count
            if left:
                wanted, seconds = chance.randint(20, 60), chance.uniform(0, 0.2)
                told, rate = kill_service(server.url, server.pid, numbers, wanted, seconds)
                acknowledged += list(told.inspections)
                reviewed += told.reviewed
                rates.append(rate)
    half = missing(folder / "records", url, acknowledged, reviewed)["half_written"]
    integrity = _integrity(folder / "records", url)
    return Result(
        rounds,
        len(acknowledged),
        len(reviewed),
        **totals,
        half_written=half,
        integrity=integrity,
        median_records_per_second=round(float(np.median(rates)), 1),
    )


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
    parser.add_argument("--service", action="store_true", help="kill a whole service, not only what it records with")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_for_ever(given.write, given.url)
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = run_service if given.service else run
        result = work(given.folder or Path(temporary), given.rounds, given.url)
    told: dict[str, Any] = {
        "machine": describe(),
        "killed": "service" if given.service else "records",
        "database": "postgresql" if given.url else "sqlite",
        **asdict(result),
    }
    print(json.dumps(told, indent=2))
    if given.json:
        given.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
