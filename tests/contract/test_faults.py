"""Overload, deadlines, departures, poison, a dying inference thread, draining: each over a real socket."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

from service.api.state import Lifecycle
from service.commands.serve import DrainingServer
from service.engine.session import has_cuda
from service.types import Wanted
from tests.contract.serving import Gate, Service, running, wait_until
from tests.networks import POISON, grey_picture, png, write_bundle

GOOD = png(grey_picture())
FILES = {"image": ("a.png", GOOD)}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Service]:
    """A service whose queue holds three windows; its pictures have one window each."""
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path, queue_windows=3) as service:
        yield service


@pytest.fixture
def pool() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        yield threads


def ask(service: Service, **options: Any) -> httpx.Response:
    return httpx.post(f"{service.url}/detect", timeout=30, **({"files": FILES} | options))


def rejected(service: Service, reason: str) -> float:
    return service.state.metrics.registry.get_sample_value("flawscribe_rejected_total", {"reason": reason}) or 0.0


def test_overload_is_turned_away_with_retry_after(small: Service, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    gate = Gate(small.session)
    admitted = [pool.submit(ask, small) for _ in range(3)]
    wait_until(lambda: small.state.inspector.batcher.reserved_windows == 3)
    refused = ask(small)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "3 windows" in refused.json()["detail"]
    assert rejected(small, "overload") == 1
    gate.restore()
    assert [answer.result().status_code for answer in admitted] == [200] * 3
    assert ask(small).status_code == 200
    assert small.state.inspector.batcher.reserved_windows == 0


def test_later_pictures_of_a_request_wait_for_room_and_count_as_no_refusal(
    small: Service, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    gate = Gate(small.session)
    many = pool.submit(ask, small, files=[("image", ("a.png", GOOD))] * 6)
    wait_until(lambda: small.state.inspector.batcher.reserved_windows == 3)
    gate.restore()
    answer = many.result()
    assert answer.status_code == 200
    assert [result["verdict"] for result in answer.json()["results"]] == ["ok"] * 6
    assert rejected(small, "overload") == 0


def test_bodies_beyond_the_memory_given_to_them_are_turned_away(
    tmp_path: Path, pool: concurrent.futures.ThreadPoolExecutor
) -> None:
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path, max_body_mb=1, bodies_mb=1) as service:
        gate = Gate(service.session)
        first = pool.submit(ask, service)
        assert gate.entered.acquire(timeout=20)
        refused = httpx.post(
            f"{service.url}/detect", content=(GOOD for _ in range(1)), headers={"content-type": "image/png"}
        )
        assert refused.status_code == 429  # its length is not announced, so it may be of the largest size
        assert rejected(service, "bodies") == 1
        gate.restore()
        assert first.result().status_code == 200
        assert ask(service).status_code == 200


def test_a_picture_that_can_never_fit_is_too_large(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1, working_size=896)
    with running(tmp_path, queue_windows=3) as service:
        answer = ask(service)
        assert answer.status_code == 413
        assert "16 windows" in answer.json()["detail"]


def test_the_expired_are_told_and_never_run(small: Service, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    gate = Gate(small.session)
    first = pool.submit(ask, small)
    assert gate.entered.acquire(timeout=20)
    late = ask(small, headers={"x-deadline-ms": "60"})
    assert late.status_code == 504
    # asked again, the second picture may be in time: the request may pass, whatever is wrong with the first
    torn = [("image", ("torn.png", b"torn")), ("image", FILES["image"])]
    assert ask(small, files=torn, headers={"x-deadline-ms": "60"}).status_code == 504
    gate.restore()
    assert first.result().status_code == 200
    assert ask(small).status_code == 200
    assert rejected(small, "deadline") == 2  # requests, not pictures
    assert sum(gate.batches) == 1  # the expired picture never reached the network behind the gate


def test_a_departed_client_leaves_the_queue(small: Service, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    gate = Gate(small.session)
    first = pool.submit(ask, small)
    assert gate.entered.acquire(timeout=20)
    host, port = small.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(GOOD)}\r\n\r\n"
        )
        connection.sendall(head.encode() + GOOD)
        wait_until(lambda: small.state.inspector.batcher.reserved_windows == 2)
    wait_until(lambda: small.state.inspector.batcher.reserved_windows == 1)
    gate.restore()
    assert first.result().status_code == 200
    assert ask(small).status_code == 200
    assert sum(gate.batches) == 1


def test_a_poisoned_picture_fails_alone(small: Service, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    poisoned = grey_picture()
    poisoned[0, 0] = POISON
    small.session.ladder = (1, 2)  # a CPU's own has no batch
    gate = Gate(small.session)
    first = pool.submit(ask, small)
    assert gate.entered.acquire(timeout=20)
    guilty = pool.submit(ask, small, files={"image": ("p.png", png(poisoned))})
    innocent = pool.submit(ask, small)
    wait_until(lambda: len(small.state.inspector.batcher._jobs) == 2)
    gate.opened.set()  # both go into one batch
    assert guilty.result().status_code == 503
    assert guilty.result().json()["type"] == "/problems/network-failure"
    assert (first.result().status_code, innocent.result().status_code) == (200, 200)
    assert 2 in gate.batches
    gate.restore()


def test_the_death_of_the_inference_thread_strands_nobody(small: Service) -> None:
    original = small.session.run

    def die(windows: np.ndarray, wanted: Wanted = "maps") -> Any:
        small.session.run = original
        raise SystemExit("the thread is gone")

    small.session.run = die
    dead = small.state.inspector.batcher._thread
    answer = ask(small)
    assert answer.status_code == 503
    wait_until(lambda: not dead.is_alive())
    wait_until(lambda: small.client.get("/readyz").status_code == 200)
    assert ask(small).status_code == 200


def test_an_unexpected_error_tells_nothing_of_the_inside(small: Service) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the secret inside")

    small.state.inspector.inspect = fail  # type: ignore[method-assign]
    answer = ask(small, headers={"x-request-id": "r-500"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "r-500"
    assert "secret" not in answer.text
    assert 'flawscribe_requests_total{code="500",endpoint="/detect"} 1.0' in small.client.get("/metrics").text


def test_large_bodies_are_refused_announced_or_not(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path, max_body_mb=0.1, max_megapixels=0.01) as service:
        headers = {"content-type": "image/png"}
        assert ask(service, files=None, content=bytes(200_000), headers=headers).status_code == 413
        chunks = (bytes(10_000) for _ in range(40))
        assert ask(service, files=None, content=chunks, headers=headers).status_code == 413
        assert ask(service, files=None, content=GOOD, headers=headers).status_code == 413  # 50,176 pixels
        raw = {"content-type": "application/octet-stream", "x-image-shape": "150,150,3"}
        assert ask(service, files=None, content=bytes(67_500), headers=raw).status_code == 413


def test_a_body_that_does_not_arrive_is_given_up(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path, body_timeout_s=0.2) as service:
        host, port = service.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            head = f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: 999\r\n\r\n"
            connection.sendall(head.encode() + b"only this")
            answer = connection.recv(4096)
            assert b"408" in answer.splitlines()[0]
            assert b"connection: close" in answer.lower()


def child(models_dir: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "service", "serve", "--port", "0"],
        env={
            **os.environ,
            "FLAWSCRIBE_MODELS_DIR": str(models_dir),
            "FLAWSCRIBE_RECORDS_DIR": str(models_dir / ".records"),
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_sigterm_drains(tmp_path: Path, pool: concurrent.futures.ThreadPoolExecutor) -> None:
    """A request whose body is still arriving is finished; readiness falls at once; the process ends with 0."""
    write_bundle(tmp_path, "probe", 1)
    with child(tmp_path) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "ready on" in line
        url = line.split()[3]
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection, httpx.Client() as client:
            head = f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(GOOD)}\r\n\r\n"
            connection.sendall(head.encode() + GOOD[:50])
            wait_until(lambda: client.get(f"{url}/healthz").status_code == 200)
            wait_until(lambda: "flawscribe" in client.get(f"{url}/metrics").text)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: client.get(f"{url}/readyz").status_code == 503)
            refused = client.post(f"{url}/detect", files=FILES)
            assert refused.status_code == 503
            assert "retry-after" in refused.headers
            connection.sendall(GOOD[50:])
            assert b"200" in connection.recv(4096).splitlines()[0]
        assert process.wait(20) == 0


@contextlib.contextmanager
def told_to_end(models_dir: Path, drain_s: float) -> Iterator[tuple[subprocess.Popen[str], str, socket.socket]]:
    """A service that was told to end while the rest of a request's body is held back: its process, its address and that
    request's connection."""
    write_bundle(models_dir, "probe", 1)
    with child(models_dir, FLAWSCRIBE_DRAIN_S=str(drain_s)) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split(" on ")[1].split()[0]
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                head = f"POST /detect HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nExpect: 100-continue\r\n"
                connection.sendall(f"{head}Content-Length: {len(GOOD)}\r\n\r\n".encode())
                assert b" 100 " in connection.recv(4096)  # the body is waited for
                connection.sendall(GOOD[:50])
                process.send_signal(signal.SIGTERM)
                yield process, url, connection
        finally:
            process.kill()


def test_a_drain_ends_when_its_time_is_over(tmp_path: Path) -> None:
    with told_to_end(tmp_path, drain_s=0.5) as (process, _, connection):
        assert process.wait(20) == 0
        answer = b"".join(iter(lambda: connection.recv(4096), b""))  # and the end
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"application/problem+json" in answer
        assert b"retry-after: 5" in answer.lower()


def test_a_second_sigterm_ends_a_drain_at_once(tmp_path: Path) -> None:
    with told_to_end(tmp_path, drain_s=300) as (process, url, connection):
        wait_until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
        assert connection.recv(4096) == b""


@pytest.mark.parametrize(("in_flight", "drain_s", "least", "most"), [(0, 600, 500, 600), (1, 0.1, 0, 0.1)])
def test_answers_on_their_way_have_what_is_left_of_a_drain_s_time(
    in_flight: int, drain_s: float, least: float, most: float
) -> None:
    """The time is given once: to requests, and then to what their clients have not read yet."""
    state: Any = SimpleNamespace(
        settings=SimpleNamespace(drain_s=drain_s), lifecycle=Lifecycle(ready=True, in_flight=in_flight)
    )
    server = DrainingServer(uvicorn.Config("none"), state)
    asyncio.run(server._drain())
    assert server.should_exit
    assert least < server.config.timeout_graceful_shutdown < most


def test_an_unknown_setting_is_an_error(tmp_path: Path) -> None:
    with child(tmp_path, FLAWSCRIBE_MODEL_DIR="x") as process:
        assert process.wait(20) == 2


def test_readiness_tells_why_not(tmp_path: Path) -> None:
    with child(tmp_path) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "not ready: no model" in line
        url = next(word for word in line.split() if word.startswith("http://"))
        assert httpx.get(f"{url}/healthz").status_code == 200
        answer = httpx.get(f"{url}/readyz")
        assert answer.status_code == 503
        assert "flawscribe train" in answer.json()["detail"]
        assert httpx.post(f"{url}/detect", files=FILES).status_code == 503
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.skipif(has_cuda(), reason="there is a GPU")
def test_readiness_tells_that_the_provider_asked_for_is_not_there(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    with running(tmp_path, ready=False, provider="cuda") as service:
        answer = service.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["type"] == "/problems/not-ready"
        assert "FLAWSCRIBE_PROVIDER=cuda" in answer.json()["detail"]
        assert service.client.get("/healthz").status_code == 200
        assert ask(service).status_code == 503


def test_many_clients_at_once_are_each_answered_with_their_own_picture(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    wrong: list[tuple[int, float]] = []

    def client(number: int) -> None:
        level = 20 * number
        with httpx.Client(base_url=service.url, timeout=30) as session:
            for _ in range(12):
                answer = session.post("/detect", files={"image": ("a.png", png(grey_picture(level=level)))})
                score = answer.json()["results"][0]["anomaly_score"]
                if abs(score - (1 - level / 255)) > 1e-4:
                    wrong.append((level, score))

    with running(tmp_path) as service:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
