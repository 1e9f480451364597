"""Clients that load a service over real sockets: so many at once (closed loop), or arrivals at given times (open loop).

They run in processes of their own, started by `run`, so that neither the service nor each other's interpreter holds them
up. An open loop's latency counts from when a request was due, not from when a busy client got round to sending it.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

PROCESSES = 4
_WAITING = 96  # requests that one process of an open loop can have under way
_LEAD_S = 0.5  # for all processes to have started
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Target:
    """One request, sent again and again."""

    url: str  # with the path
    body: bytes
    media_type: str
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer. `stages`: milliseconds as the Server-Timing header tells them; `status` 0: the connection broke."""

    status: int
    seconds: float
    ended: float  # time.monotonic()
    stages: dict[str, float]


def once(target: Target) -> Sample:
    """One answer, asked for by this process."""
    return _Client(target).ask()


def closed(target: Target, clients: int, seconds: float) -> list[Sample]:
    """`clients` clients that each ask again as soon as they are answered, for `seconds` and at least once."""
    shares = [len(range(place, clients, PROCESSES)) for place in range(min(PROCESSES, clients))]
    start = time.monotonic() + _LEAD_S
    return _run(target, [{"clients": each, "start": start, "until": start + seconds} for each in shares])


def arriving(target: Target, rate: float, seconds: float, *, seed: int = 0) -> list[Sample]:
    """Arrivals at random (Poisson) at `rate` a second for `seconds`, whatever the answers do."""
    rng = random.Random(seed)
    due, moments = rng.expovariate(rate), []
    while due < seconds:
        moments.append(due)
        due += rng.expovariate(rate)
    start = time.monotonic() + _LEAD_S
    shares = [moments[place::PROCESSES] for place in range(PROCESSES)]
    return _run(target, [{"due": [start + moment for moment in share]} for share in shares if share])


def _run(target: Target, orders: Sequence[dict[str, Any]]) -> list[Sample]:
    told = asdict(target) | {"body": base64.b64encode(target.body).decode()}
    children = []
    for order in orders:
        command = [sys.executable, "-m", "service.bench.load"]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stdin = children[-1].stdin
        assert stdin is not None
        stdin.write(json.dumps({"target": told, **order}))
        stdin.close()
    samples = []
    for child in children:
        with child:
            assert child.stdout is not None
            samples += [Sample(*row) for row in json.load(child.stdout)]
    return samples


class _Client:
    """One connection, kept."""

    def __init__(self, target: Target) -> None:
        place = urlsplit(target.url)
        self._target = target
        self._connection = http.client.HTTPConnection(place.netloc, timeout=_TIMEOUT_S)
        self._path = f"{place.path}?{place.query}" if place.query else place.path
        self._headers = {"content-type": target.media_type, **target.headers}

    def ask(self, due: float | None = None) -> Sample:
        """One request; its time counts from `due` (time.monotonic()), or from now."""
        began = time.monotonic() if due is None else due
        try:
            self._connection.request(self._target.method, self._path, self._target.body, self._headers)
            answer = self._connection.getresponse()
            answer.read()
            status, stages = answer.status, _stages(answer.getheader("server-timing", ""))
        except (OSError, http.client.HTTPException):
            self._connection.close()
            status, stages = 0, {}
        ended = time.monotonic()
        return Sample(status, ended - began, ended, stages)


def _stages(header: str) -> dict[str, float]:
    """A Server-Timing header's names and durations."""
    parts = (part.strip().partition(";dur=") for part in header.split(","))
    return {name: float(duration) for name, _, duration in parts if duration}


def _work(order: dict[str, Any]) -> list[Sample]:
    """One process's share of the load."""
    target = Target(**(order["target"] | {"body": base64.b64decode(order["target"]["body"])}))
    if "due" in order:
        return _in_time(target, order["due"])
    with ThreadPoolExecutor(order["clients"]) as pool:
        shares = [
            pool.submit(_repeat, _Client(target), order["start"], order["until"]) for _ in range(order["clients"])
        ]
        return [sample for share in shares for sample in share.result()]


def _repeat(client: _Client, start: float, until: float) -> list[Sample]:
    time.sleep(max(0.0, start - time.monotonic()))
    found = [client.ask()]
    while time.monotonic() < until:
        found.append(client.ask())
    return found


def _in_time(target: Target, moments: Sequence[float]) -> list[Sample]:
    own = threading.local()

    def connect() -> None:
        own.client = _Client(target)

    def ask(due: float) -> Sample:
        client: _Client = own.client
        return client.ask(due)

    with ThreadPoolExecutor(_WAITING, initializer=connect) as pool:  # idle threads are taken before new ones are made
        pending = []
        for due in moments:
            time.sleep(max(0.0, due - time.monotonic()))
            pending.append(pool.submit(ask, due))
        return [each.result() for each in pending]


if __name__ == "__main__":
    json.dump(
        [[each.status, each.seconds, each.ended, each.stages] for each in _work(json.load(sys.stdin))], sys.stdout
    )
